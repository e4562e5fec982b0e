"""The fields of SamplingParams: what is refused, and the plain Python value of what is not."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

MAX_SEED = 2**64 - 1
"""A word of the generator's key."""


_MOST = 1e30
"""Of what changes logits, and 1 / it where it divides them: float32 still holds the sums and products."""

_MOST_SAMPLES = 65536
"""Texts of one prompt: each is a sequence of its own, and steps have room for 64."""


def _whole(name: str, value: Any, low: int = 0, high: int | None = None) -> int:
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < low or (high is not None and number > high):
        wanted = (
            f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"
        )
        raise _refused(name, value, wanted)
    return number


def _integer(name: str, value: Any) -> int:
    try:
        return _whole(name, value, -(2**63), 2**63 - 1)
    except ValueError:
        raise _refused(name, value, "a whole number") from None


def _number(value: Any) -> float:
    """As a float, NaN where it is none."""
    try:
        return math.nan if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _real(name: str, value: Any, low: float = 0.0, high: float = math.inf) -> float:
    number = _number(value)
    if not (low <= number <= high and math.isfinite(number)):
        wanted = f"a number of at least {low:g}" if high == math.inf else f"a number from {low:g} to {high:g}"
        raise _refused(name, value, wanted)
    return number


def _finite(name: str, value: Any) -> float:
    number = _number(value)
    if not abs(number) <= _MOST:
        raise _refused(name, value, f"a number from {-_MOST:g} to {_MOST:g}")
    return number


def _positive(name: str, value: Any) -> float:
    number = _number(value)
    if not 1 / _MOST <= number <= _MOST:
        raise _refused(name, value, f"a number above 0, from {1 / _MOST:g} to {_MOST:g}")
    return number


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _refused(name, value, "True or False")
    return value


def _optional(check: Callable[[str, Any], Any], name: str, value: Any) -> Any:
    try:
        return None if value is None else check(name, value)
    except ValueError as error:
        raise ValueError(f"{error}, or None") from None


def _texts(name: str, value: Any) -> tuple[str, ...]:
    texts = () if value is None else (value,) if isinstance(value, str) else value
    try:
        texts = tuple(texts)
    except TypeError:
        texts = (None,)
    if not all(isinstance(text, str) and text for text in texts):
        raise _refused(name, value, "a text that is not empty, several, or None")
    return texts


def _ids(name: str, value: Any) -> tuple[int, ...]:
    try:
        return () if value is None else tuple(_whole(name, id) for id in value)
    except (TypeError, ValueError):
        raise _refused(name, value, "token ids of at least 0, or None") from None


def _some_ids(name: str, value: Any) -> tuple[int, ...] | None:
    try:
        ids = None if value is None else tuple(sorted({_whole(name, id) for id in value}))
    except (TypeError, ValueError):
        ids = ()
    if ids == ():
        raise _refused(name, value, "at least one token id of at least 0, or None")
    return ids


def _biases(name: str, value: Any) -> tuple[tuple[int, float], ...] | None:
    if value is None:
        return None
    try:
        pairs = tuple(sorted((_whole(name, id), _number(bias)) for id, bias in _pairs(value)))
    except (TypeError, ValueError):
        pairs = ((0, math.nan),)
    if not all(abs(bias) <= _MOST or bias == -math.inf for _, bias in pairs) or len(
        {id for id, _ in pairs}
    ) != len(pairs):
        raise _refused(name, value, "a finite number or -inf for each of some token ids, or None")
    return pairs


def _pairs(value: Any) -> Any:
    return value.items() if isinstance(value, Mapping) else value


def _processor(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        raise _refused(name, value, "a callable, or None")
    return value


def _drafter(name: str, value: Any) -> Any:
    is_model = hasattr(value, "_drafting_engine") and not isinstance(value, type)
    if not (value is None or (isinstance(value, str) and value == "lookup") or is_model):
        raise _refused(name, value, "'lookup', a loaded model that generates, or None")
    return value


def _refused(name: str, value: Any, wanted: str) -> ValueError:
    return ValueError(f"{name} is {value!r:.80}, wanted {wanted}")


_share = partial(_real, high=1.0)
_count = partial(_whole, low=1)

CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "max_tokens": _whole,
    "min_tokens": _whole,
    "temperature": _real,
    "top_k": _whole,
    "top_p": _share,
    "min_p": _share,
    "typical_p": _share,
    "repetition_penalty": _positive,
    "presence_penalty": _finite,
    "frequency_penalty": _finite,
    "penalty_window": partial(_optional, _count),
    "logit_bias": _biases,
    "allowed_token_ids": _some_ids,
    "bad_words": _texts,
    "logits_processor": _processor,
    "seed": lambda name, value: None if value is None else _whole(name, value, 0, MAX_SEED),
    "n": partial(_count, high=_MOST_SAMPLES),
    "stop": _texts,
    "stop_token_ids": _ids,
    "ignore_eos": _flag,
    "logprobs": partial(_optional, _whole),
    "prompt_logprobs": partial(_optional, _whole),
    "priority": _integer,
    "deadline_ms": partial(_optional, _positive),
    "num_beams": partial(_count, high=_MOST_SAMPLES),
    "length_penalty": partial(_real, low=-5.0, high=5.0),
    "early_stopping": _flag,
    "speculate": _drafter,
}
"""Every field by its name: check(name, value) gives the value to keep. Raises ValueError."""
