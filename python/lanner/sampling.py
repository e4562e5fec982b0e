"""How the next token is chosen and where a generation ends: the parameters, and the random numbers."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

from lanner._blocks import uniform as uniform  # the number that draws a token, see there

MAX_SEED = 2**64 - 1  # a word of the generator's key


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """What `generate`, `stream`, `chat` and `submit` take, as one value.

    Attributes:
        max_tokens: at most this many tokens are generated; 0 gives an empty text without running the model.
        temperature: divides the logits; 0 always takes the likeliest token, the lowest id on ties.
        top_k: draws among the k likeliest tokens; 0 means all.
        top_p: draws among the fewest likeliest tokens that sum to probability top_p (Holtzman et al., 2020).
        min_p: drops tokens less likely than min_p times the likeliest one.
        seed: 0 to 2**64 - 1, the same text again; None takes one from the system, the result tells it.
        stop: one text or several; generation ends before the first that appears, however tokens divide it.
            Of two that appear at once, the one that is complete first counts.
        stop_token_ids: ids that end generation besides the model's own.
        ignore_eos: go on after the model's own end tokens.

    Raises:
        ValueError: naming the field, its value and what is wanted.
        TypeError: a keyword that is none of these, naming the nearest.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | Iterable[str] | None = None
    stop_token_ids: Iterable[int] | None = None
    ignore_eos: bool = False

    def __new__(cls, **options: Any) -> SamplingParams:
        """Refuses unknown keywords before the fields are set."""
        check_keywords("SamplingParams", options, OPTION_NAMES)
        return object.__new__(cls)

    def __post_init__(self) -> None:
        """Checks every field and brings it into its plain Python type."""
        for name, value in (
            ("max_tokens", _whole("max_tokens", self.max_tokens)),
            ("temperature", _real("temperature", self.temperature, math.inf)),
            ("top_k", _whole("top_k", self.top_k)),
            ("top_p", _real("top_p", self.top_p, 1.0)),
            ("min_p", _real("min_p", self.min_p, 1.0)),
            ("seed", None if self.seed is None else _whole("seed", self.seed, MAX_SEED)),
            ("stop", _stop_texts(self.stop)),
            ("stop_token_ids", _stop_ids(self.stop_token_ids)),
        ):
            object.__setattr__(self, name, value)
        if not isinstance(self.ignore_eos, bool):
            raise ValueError(f"ignore_eos is {self.ignore_eos!r:.80}, wanted True or False")

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """`stop` as it was checked."""
        return self.stop  # type: ignore[return-value]

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """`stop_token_ids` as they were checked."""
        return self.stop_token_ids  # type: ignore[return-value]

    @property
    def row(self) -> tuple[float, float, float, float]:
        """temperature, top_k, top_p and min_p as the operation `sample` reads them, in float32."""
        # 1 / 1e-30 is still finite in float32, and no two different logits stay comparable at either.
        temperature = max(self.temperature, 1e-30) if self.temperature > 0 else 0.0
        return temperature, float(min(self.top_k, 2**24)), self.top_p, self.min_p


OPTION_NAMES = tuple(field.name for field in fields(SamplingParams))


class SamplingOptions(TypedDict, total=False):
    """The fields of SamplingParams as keywords."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int | None
    stop: str | Iterable[str] | None
    stop_token_ids: Iterable[int] | None
    ignore_eos: bool


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


def _whole(name: str, value: Any, high: int | None = None) -> int:
    wanted = "a whole number of at least 0" if high is None else f"a whole number from 0 to {high}"
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if number < 0 or (high is not None and number > high):
        raise ValueError(f"{name} is {value!r:.80}, wanted {wanted}")
    return number


def _real(name: str, value: Any, high: float) -> float:
    wanted = "a number of at least 0" if high == math.inf else f"a number from 0 to {high:g}"
    try:
        number = math.nan if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (0 <= number <= high and math.isfinite(number)):
        raise ValueError(f"{name} is {value!r:.80}, wanted {wanted}")
    return number


def _stop_texts(stop: Any) -> tuple[str, ...]:
    texts = () if stop is None else (stop,) if isinstance(stop, str) else stop
    try:
        texts = tuple(texts)
    except TypeError:
        texts = (None,)
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"stop is {stop!r:.80}, wanted a text that is not empty, several, or None")
    return texts


def _stop_ids(ids: Any) -> tuple[int, ...]:
    try:
        return () if ids is None else tuple(_whole("stop_token_ids", id) for id in ids)
    except (TypeError, ValueError):
        raise ValueError(f"stop_token_ids is {ids!r:.80}, wanted token ids of at least 0, or None") from None
