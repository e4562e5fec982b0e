"""How the next token is chosen and where a generation ends: the parameters, and the random numbers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from lanner._blocks import uniform as uniform  # the number that draws a token, see there
from lanner._records import dataclass, replace
from lanner._sampling_checks import CHECKS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lanner.llm import Model

LogitsProcessor: TypeAlias = "Callable[[list[int], npt.NDArray[np.float32]], object]"
"""Changes the logits (vocab_size,) of the next token in place, given the ids before it."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """What `generate`, `stream`, `chat` and `submit` take, as one value.

    A token is chosen in these stages: repetition_penalty; presence_penalty and frequency_penalty; logit_bias;
    what may not be generated (allowed_token_ids, bad_words, end tokens before min_tokens); logits_processor;
    temperature, top_k, top_p, min_p, typical_p, each on the probabilities of what the one before left; the
    draw. Log probabilities are the model's own, before all of these.

    Attributes:
        max_tokens: at most this many tokens are generated, and what the context has room for; 0 gives an
            empty text without running the model.
        min_tokens: no end token is generated before so many others; a stop text may end it sooner.
        temperature: divides the logits; 0 always takes the likeliest token, the lowest id on ties.
        top_k: draws among the k likeliest tokens; 0 means all.
        top_p: draws among the fewest likeliest tokens that sum to probability top_p (Holtzman et al., 2020).
        min_p: drops tokens less likely than min_p times the likeliest one.
        typical_p: draws among the fewest tokens that sum to probability typical_p, those first whose
            information is nearest to the entropy (Meister et al., 2023).
        repetition_penalty: divides positive logits of the tokens of prompt and text, multiplies negative ones
            (Keskar et al., 2019).
        presence_penalty: is subtracted from the logits of tokens that were generated.
        frequency_penalty: is subtracted from the logit of a token as often as it was generated.
        penalty_window: penalties look at so many of the last tokens of prompt and text; None: at all.
        logit_bias: what is added to the logits of some ids, by id; -inf forbids one.
        allowed_token_ids: no other id is generated, end tokens included; None: any.
        bad_words: one text or several; their tokens are not generated in a row, with or without a space in
            front. The last token of a word is forbidden where the others stand there, in the prompt or text.
        logits_processor: called as f(token_ids, logits) before a token is chosen, with the ids of prompt and
            text in a list and float32 logits (vocab_size,) to be changed in place; -inf forbids an id.
        seed: 0 to 2**64 - 1, the same text again; None takes one from the system, the result tells it.
        n: texts for a prompt, each with random numbers of its own.
        stop: one text or several; generation ends before the first that appears, however tokens divide it.
            Of two that appear at once, the one that is complete first counts.
        stop_token_ids: ids that end generation besides the model's own.
        ignore_eos: go on after the model's own end tokens.
        logprobs: log probabilities of the tokens of the text and of the k likeliest at their places; 0: of
            the tokens alone; None: nothing.
        prompt_logprobs: the same of the prompt, for each token but the first.
        priority: a request is served before those with a smaller number.
        deadline_ms: so many milliseconds after the request it ends with what it has; None: no limit.
        num_beams: above 1, beam search with so many beams, which wants temperature 0 and gives the n best;
            the stages before temperature then change log probabilities and not logits, as in transformers.
        length_penalty: texts that ended are compared by log probability / length ** length_penalty; -5 to 5.
        early_stopping: end as soon as there are num_beams finished texts; False goes on while a better one
            is likely.
        speculate: "lookup" guesses that tokens repeat prompt or text, a loaded model of the same vocabulary
            what it would say; a step then verifies several. Tokens, text and log probabilities stay the same
            to the last bit, and guesses are made as long as they save time; `timings` counts them.

    Raises:
        ValueError: naming the field, its value and what is wanted.
        TypeError: a keyword that is none of these, naming the nearest.
    """

    max_tokens: int = 256
    min_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_window: int | None = None
    logit_bias: Mapping[int, float] | Iterable[tuple[int, float]] | None = None
    allowed_token_ids: Iterable[int] | None = None
    bad_words: str | Iterable[str] | None = None
    logits_processor: LogitsProcessor | None = None
    seed: int | None = None
    n: int = 1
    stop: str | Iterable[str] | None = None
    stop_token_ids: Iterable[int] | None = None
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    priority: int = 0
    deadline_ms: float | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool = False
    speculate: str | Model | None = None

    def __new__(cls, **options: Any) -> SamplingParams:
        """Refuses unknown keywords before the fields are set."""
        check_keywords("SamplingParams", options, OPTION_NAMES)
        return object.__new__(cls)

    def __post_init__(self) -> None:
        """Checks every field and brings it into its plain Python type."""
        for name, checked in CHECKS.items():
            object.__setattr__(self, name, checked(name, getattr(self, name)))
        if self.num_beams > 1 and self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}, wanted 0 where num_beams is above 1")
        for name in ("logprobs", "prompt_logprobs"):
            if self.num_beams > 1 and getattr(self, name) is not None:
                raise ValueError(f"{name} is {getattr(self, name)}, wanted None where num_beams is above 1")
        if self.num_beams > 1 and self.speculate is not None:
            raise ValueError(f"speculate is {self.speculate!r:.80}, wanted None where num_beams is above 1")
        if 1 < self.num_beams < self.n:
            raise ValueError(f"n is {self.n}, wanted at most num_beams, which is {self.num_beams}")

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """`stop` as it was checked."""
        return self.stop  # type: ignore[return-value]

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """`stop_token_ids` as they were checked."""
        return self.stop_token_ids  # type: ignore[return-value]

    @property
    def biases(self) -> tuple[tuple[int, float], ...]:
        """`logit_bias` as it was checked: pairs of id and bias, ids ascending."""
        return self.logit_bias or ()  # type: ignore[return-value]

    @property
    def allowed_ids(self) -> tuple[int, ...] | None:
        """`allowed_token_ids` as they were checked: ascending, each once."""
        return self.allowed_token_ids  # type: ignore[return-value]

    @property
    def bad_texts(self) -> tuple[str, ...]:
        """`bad_words` as they were checked."""
        return self.bad_words  # type: ignore[return-value]

    @property
    def row(self) -> tuple[float, float, float, float, float]:
        """temperature, top_k, top_p, min_p and typical_p as the operation `sample` reads them, in float32."""
        # 1 / 1e-30 is still finite in float32, and no two different logits stay comparable at either.
        temperature = max(self.temperature, 1e-30) if self.temperature > 0 else 0.0
        return temperature, float(min(self.top_k, 2**24)), self.top_p, self.min_p, self.typical_p


OPTION_NAMES = tuple(SamplingParams.__annotations__)


class SamplingOptions(TypedDict, total=False):
    """The fields of SamplingParams as keywords."""

    max_tokens: int
    min_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    penalty_window: int | None
    logit_bias: Mapping[int, float] | Iterable[tuple[int, float]] | None
    allowed_token_ids: Iterable[int] | None
    bad_words: str | Iterable[str] | None
    logits_processor: LogitsProcessor | None
    seed: int | None
    n: int
    stop: str | Iterable[str] | None
    stop_token_ids: Iterable[int] | None
    ignore_eos: bool
    logprobs: int | None
    prompt_logprobs: int | None
    priority: int
    deadline_ms: float | None
    num_beams: int
    length_penalty: float
    early_stopping: bool
    speculate: str | Model | None


def merged(where: str, params: SamplingParams | None, options: Mapping[str, Any]) -> SamplingParams:
    """`params`, or the defaults, with `options` in their place; errors name the call `where`."""
    check_keywords(where, options, OPTION_NAMES)
    if params is not None and not isinstance(params, SamplingParams):
        raise ValueError(f"{where}: params is a {type(params).__name__}, wanted a SamplingParams")
    try:
        return replace(params or SamplingParams(), **options)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def check_keywords(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises TypeError for the first keyword that is not known, naming the nearest that is."""
    known = tuple(known)
    for name in given:
        if name not in known:
            import difflib

            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"the nearest is {nearest[0]!r}" if nearest else f"known are {', '.join(sorted(known))}"
            raise TypeError(f"{where}: unknown keyword {name!r}, {hint}")


def draw_seed() -> int:
    """A seed from the system's entropy."""
    return int.from_bytes(os.urandom(8), "little")
