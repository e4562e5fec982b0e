"""What a model thinks of texts that it is given: logits, scores, perplexity, a choice among answers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

from lanner._records import dataclass
from lanner._requests import Requests
from lanner.logprobs import LogprobCollector
from lanner.prompts import is_list_of_prompts
from lanner.result import Logprobs
from lanner.sequence import Outputs, Scoring

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lanner.prompts import TokenIds

_WINDOWS = 64  # that are with the engine at a time: as many as a step has sequences


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """How likely a text is to a model.

    Attributes:
        token_ids: int32 (n,), all tokens of the text.
        logprobs: float32 (n - 1,), the natural logarithm of the probability of every token after the first,
            given those before it.
    """

    token_ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]

    @property
    def total(self) -> float:
        """log p of the text given its first token: the sum of `logprobs`, in float64."""
        return math.fsum(self.logprobs)

    @property
    def perplexity(self) -> float:
        """exp of the mean of -logprobs; NaN for a text of one token."""
        return math.exp(-self.total / len(self.logprobs)) if len(self.logprobs) else math.nan


@dataclass(frozen=True, slots=True)
class Choice:
    """The likeliest of some continuations.

    Attributes:
        index, text: which it is.
        logprobs: of all continuations, log p of its tokens given the prompt, in their order.
        n_tokens: how many tokens each has.
    """

    index: int
    text: str
    logprobs: list[float]
    n_tokens: list[int]


class Scores(Requests):
    """Part of `Model`. Memory grows with the number of tokens, not with tokens times vocabulary."""

    def logits(self, ids: str | TokenIds) -> npt.NDArray[np.float32]:
        """Logits after every token: float32 (len(ids), vocab_size), in one pass."""
        import numpy as np

        ids = self._prompts.ids("logits", "ids", ids)
        out = np.empty((len(ids), self._info.vocab_size), np.float32)

        def copy(position: int, outputs: Outputs, first_row: int, n_rows: int) -> None:
            out[position : position + n_rows] = outputs.logits(first_row + n_rows)[first_row:]

        self._run("logits", [Scoring(ids, copy)])
        return out

    @overload
    def score(self, texts: str | TokenIds) -> Score: ...  # type: ignore[overload-overlap]  # a str is a sequence
    @overload
    def score(self, texts: Sequence[str] | Sequence[TokenIds]) -> list[Score]: ...
    def score(self, texts: Any) -> Score | list[Score]:
        """Log-probabilities of the tokens of a text after its first; of several texts a list, in their order.

        Each text has at least one token and fits into the context.
        """
        import numpy as np

        many = is_list_of_prompts(texts) or (isinstance(texts, Sequence) and not len(texts) and texts != "")
        named = [(f"texts[{i}]", each) for i, each in enumerate(texts)] if many else [("texts", texts)]
        parts = [self._prompts.ids("score", name, each) for name, each in named]
        found = self._logprobs("score", [(ids, 1) for ids in parts])
        scores = [
            Score(np.array(ids, np.int32), each.token_logprobs)
            for ids, each in zip(parts, found, strict=True)
        ]
        return scores if many else scores[0]

    def perplexity(
        self, text: str | TokenIds, *, window: int | None = None, stride: int | None = None
    ) -> float:
        """exp of the mean of -log p of every token after the first, given those before it.

        A text that is longer than `window` is read in windows that begin every `stride` tokens; a token
        counts once, in the first window that has it, so that it sees at least window - stride tokens.

        Args:
            text: at least two tokens, of any number.
            window: tokens that are read together; by default, and at most, the context.
            stride: from the start of a window to the start of the next; by default half a window.
        """
        context = self._info.context
        window = _whole("window", context if window is None else window, 2, context, ", the context")
        stride = _whole(
            "stride",
            max(1, window // 2) if stride is None else stride,
            1,
            window - 1,
            ", less than the window",
        )
        ids = self._prompts.long_ids("perplexity", "text", text)
        if len(ids) < 2:
            raise ValueError("perplexity: text has 1 token, wanted at least 2")
        total, windows = 0.0, _windows(ids, window, stride)
        while parts := list(itertools.islice(windows, _WINDOWS)):
            found = self._logprobs("perplexity", parts)
            total += math.fsum(math.fsum(each.token_logprobs) for each in found)
        return math.exp(-total / (len(ids) - 1))

    def choose(self, prompt: str, options: Sequence[str], *, by_token: bool = False) -> Choice:
        """Which of some continuations of a prompt the model finds likeliest.

        What an option's text makes of the end of the prompt, such as a space that joins its first word,
        counts as the option's; where nothing of the prompt would be left, the two are encoded apart. The
        prompt is computed once.

        Args:
            prompt: a text.
            options: at least one text, none empty.
            by_token: compare the mean of the tokens instead of their sum, which favours short options.
        """
        prompt_ids, parts = self._prompts.ids("choose", "prompt", prompt), []
        if isinstance(options, str) or not options:
            raise ValueError(f"choose: options is {options!r:.80}, wanted at least one text in a sequence")
        for i, option in enumerate(options):
            if not isinstance(option, str) or not option:
                raise ValueError(f"choose: options[{i}] is {option!r:.80}, wanted a text that is not empty")
            ids = self._prompts.ids("choose", f"options[{i}]", prompt + option)
            pairs = zip(prompt_ids, ids, strict=False)
            n_common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
            if n_common == 0:  # nothing would stand before its first token
                ids = prompt_ids + self.tokenizer.encode(option, add_special=False)
                n_common = len(prompt_ids)
            parts.append((ids, min(n_common, len(ids) - 1)))
        # The first alone: the others then find the prompt in the cache.
        found = [*self._logprobs("choose", parts[:1]), *self._logprobs("choose", parts[1:])]
        totals, counts = [math.fsum(each.token_logprobs) for each in found], [len(each) for each in found]
        values = [t / n for t, n in zip(totals, counts, strict=True)] if by_token else totals
        index = max(range(len(values)), key=values.__getitem__)
        return Choice(index, options[index], totals, counts)

    def _logprobs(self, where: str, parts: Sequence[tuple[list[int], int]]) -> list[Logprobs]:
        """Of the tokens ids[first:] of every part (ids, first), first >= 1, given all before each."""
        collectors = [LogprobCollector(0) for _ in parts]
        scorings = []
        for (ids, first), collector in zip(parts, collectors, strict=True):
            if first < len(ids):
                scorings.append(Scoring(ids[:-1], _adding(ids, collector), first=first - 1))
        self._run(where, scorings)
        return [collector.result() for collector in collectors]  # type: ignore[misc]  # a k of 0 collects


def _windows(ids: list[int], window: int, stride: int) -> Iterator[tuple[list[int], int]]:
    """(part, first) of each window: ids of the text, and the first of them that no window before has."""
    end = 1
    for start in range(0, len(ids), stride):
        part = ids[start : start + window]
        yield part, end - start
        end = start + len(part)
        if end == len(ids):
            return


def _adding(ids: list[int], collector: LogprobCollector) -> Any:
    def add(position: int, outputs: Outputs, first_row: int, n_rows: int) -> None:
        collector.add(outputs, first_row, ids[position + 1 : position + 1 + n_rows])

    return add


def _whole(name: str, value: int, low: int, high: int, why: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"perplexity: {name} is {value!r:.80}, wanted {low} to {high}{why}")
    return value
