"""Rotary frequencies as checkpoints state them: the base, and how it is stretched for longer contexts."""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, Any

from lanner import _core
from lanner.builder import Rope
from lanner.weights import Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lanner.config import Settings
    from lanner.weights import Weights


LEAST = 1e-12
"""Of a number that shapes a rotation, and 1 over the largest: products of a few stay finite and above 0."""


def read_rope(
    s: Settings, w: Weights, dims: int, *, layers: str | None = None, theta: float = 10000.0
) -> Rope:
    """The rotation of `dims` columns.

    Args:
        layers: "full_attention" or "sliding_attention" where a Hugging Face folder gives each its own.
        theta: base of the frequencies where a folder does not say.
    """
    if dims % 2:
        raise _core.UnsupportedModelError(f"{s.source}: {dims} columns of a head turn, wanted an even number")
    return _from_gguf(s, w, dims) if s.is_gguf else _from_hf(s, dims, layers, theta)


def rotary_dims(s: Settings, head_dim: int, otherwise: float = 1.0) -> int:
    """How many columns of a head turn, where that is a share (`otherwise` where a folder does not say)."""
    if s.is_gguf:
        return s.positive("rope.dimension_count", head_dim, most=head_dim)
    share = rope_parameters(s).get("partial_rotary_factor")
    for older in ("partial_rotary_factor", "rotary_pct"):
        stated = s.raw(older)
        share = stated if share is None else share
    share = otherwise if share is None else share
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise _core.ModelFileError(f"{s.source}: the share of rotary columns is {share!r:.80}, wanted 0 to 1")
    return int(head_dim * share)


def plain(dims: int, theta: float, factor: float = 1.0) -> array[float]:
    """theta^(-2i / dims) / factor, (dims / 2,)."""
    return array("d", (theta ** (-i / dims) / factor for i in range(0, dims, 2)))


# --- GGUF ---------------------------------------------------------------------------------------------------
def _from_gguf(s: Settings, w: Weights, dims: int) -> Rope:
    theta = s.real("rope.freq_base", 10000.0)
    s.must_equal("rope.dimension_count", dims)
    kind = s.default("rope.scaling.type", "linear")
    factor = s.real("rope.scaling.factor", s.real("rope.scale_linear", 1.0))
    if kind == "none":
        s.must_equal("rope.scaling.factor", 1.0)
    attention_factor = s.real("rope.scaling.attn_factor", 1.0)
    original = s.positive("rope.scaling.original_context_length", s.positive("context_length"))
    if kind == "yarn":
        frequencies = _yarn(dims, theta, factor, original, {})
        return Rope(frequencies, attention_factor * (1 + 0.1 * math.log(factor)))
    if kind in ("none", "linear"):
        frequencies = plain(dims, theta, factor if kind == "linear" else 1.0)
    elif kind == "longrope":
        frequencies = plain(dims, theta)
    else:
        raise _core.UnsupportedModelError(
            f"{s.source}: rope.scaling.type is {kind!r:.80}, not none, linear, yarn or longrope"
        )
    if kind == "longrope" or w.has("rope_factors_long.weight"):
        length = "long" if (s.context or s.positive("context_length")) > original else "short"
        w.skip("rope_factors_long.weight", "rope_factors_short.weight")
        divisors: Iterable[float] = w.vector(Source(f"rope_factors_{length}.weight", (dims // 2,)))
    elif w.has("rope_freqs.weight"):  # Llama 3.1: what its scaling comes to, pair by pair
        divisors = w.vector(Source("rope_freqs.weight", (dims // 2,)))
    else:
        return Rope(frequencies, attention_factor)
    return Rope(_divided(s, frequencies, divisors), attention_factor)


def _divided(s: Settings, frequencies: array[float], divisors: Iterable[float]) -> array[float]:
    divisors = list(divisors)
    if len(divisors) != len(frequencies) or not all(math.isfinite(x) and x > 0 for x in divisors):
        raise _core.ModelFileError(
            f"{s.source}: the rotary frequencies need {len(frequencies)} finite factors above 0"
        )
    return array("d", (f / x for f, x in zip(frequencies, divisors, strict=True)))


# --- Hugging Face -------------------------------------------------------------------------------------------
def rope_parameters(s: Settings, layers: str | None = None) -> dict[str, Any]:
    """What a folder says in `rope_parameters`, newer, or in rope_theta and rope_scaling, older, or in both.

    Raises ModelFileError where both speak and differ.
    """
    found = dict(_object(s, "rope_parameters", s.raw("rope_parameters")) or {})
    if layers and layers in found:
        return dict(_object(s, f"rope_parameters.{layers}", found[layers]) or {})
    theta = s.raw("rope_theta")
    theta = s.raw("rotary_emb_base") if theta is None else theta  # GPT-NeoX, in older folders
    older = dict(_object(s, "rope_scaling", s.raw("rope_scaling")) or {})
    if theta is not None:
        older["rope_theta"] = theta
    for name, value in older.items():
        if (stated := found.setdefault(name, value)) is not value and stated != value:
            raise _core.ModelFileError(
                f"{s.source}: {name} of the rope is {value!r:.80}, and {stated!r:.80} in rope_parameters"
            )
    return found


def _object(s: Settings, name: str, value: Any) -> dict[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise _core.ModelFileError(f"{s.source}: {name} is a {type(value).__name__}, wanted an object")
    return value


def _from_hf(s: Settings, dims: int, layers: str | None, theta: float) -> Rope:
    p = _Parameters(s, rope_parameters(s, layers))
    theta = p.number("rope_theta", theta)
    p.number("partial_rotary_factor", 1.0)
    kind = p.take("rope_type", p.take("type", "default"))
    p.take("type", None)
    context = s.positive("context_length")
    if kind == "default":
        rope = Rope(plain(dims, theta))
    elif kind == "linear":
        rope = Rope(plain(dims, theta, p.number("factor")))
    elif kind == "llama3":
        rope = Rope(_llama3(p, dims, theta, context))
    elif kind == "yarn":
        rope = _hf_yarn(p, dims, theta, context)
    elif kind in ("longrope", "su"):
        rope = _longrope(s, p, dims, theta, context)
    else:
        raise _core.UnsupportedModelError(
            f"{s.source}: rope_type is {kind!r:.80}, not default, linear, llama3, yarn or longrope"
        )
    p.finish()
    return rope


def _llama3(p: _Parameters, dims: int, theta: float, context: int) -> array[float]:
    from lanner.ops import rope_frequencies

    return _doubles(
        rope_frequencies(
            dims, theta, scaling="llama3", factor=p.number("factor"),
            low_freq_factor=p.number("low_freq_factor"), high_freq_factor=p.number("high_freq_factor"),
            original_length=int(p.number("original_max_position_embeddings", context, least=2.0)),
        )
    )  # fmt: skip


def _hf_yarn(p: _Parameters, dims: int, theta: float, context: int) -> Rope:
    factor = p.number("factor")
    original = int(p.number("original_max_position_embeddings", context, least=2.0))
    betas = {name: p.number(name, value) for name, value in (("beta_fast", 32.0), ("beta_slow", 1.0))}
    p.must_equal("truncate", True)
    mscale, mscale_all = (p.number(name, 0.0, least=0.0) for name in ("mscale", "mscale_all_dim"))

    def magnitude(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0

    stated = magnitude(mscale) / magnitude(mscale_all) if mscale and mscale_all else magnitude(1.0)
    return Rope(_yarn(dims, theta, factor, original, betas), p.number("attention_factor", stated))


def _longrope(s: Settings, p: _Parameters, dims: int, theta: float, context: int) -> Rope:
    """Phi-3: other divisors of the frequencies once the context is longer than the original one.

    The context that a model is loaded with decides, so that a token means the same at every length of a text.
    """
    stated = s.raw("original_max_position_embeddings")
    original = int(p.number("original_max_position_embeddings", stated or context, least=2.0))
    factor = p.number("factor", context / original)
    length = "long" if (s.context or s.positive("context_length")) > original else "short"
    divisors = {name: p.take(f"{name}_factor", None) for name in ("long", "short")}[length]
    if not isinstance(divisors, list) or not all(isinstance(x, (int, float)) for x in divisors):
        raise _core.ModelFileError(f"{s.source}: {length}_factor of the rope is no list of numbers")
    magnitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return Rope(_divided(s, plain(dims, theta), divisors), p.number("attention_factor", magnitude))


def _yarn(dims: int, theta: float, factor: float, original: int, betas: Mapping[str, float]) -> array[float]:
    from lanner.ops import rope_frequencies

    return _doubles(
        rope_frequencies(dims, theta, scaling="yarn", factor=factor, original_length=original, **betas)
    )


def _doubles(frequencies: Iterable[float]) -> array[float]:
    return array("d", map(float, frequencies))


class _Parameters:
    """The parameters of a rope; each must be read, since what is not read would have no effect."""

    def __init__(self, s: Settings, values: dict[str, Any]) -> None:
        self._s, self._values, self._read = s, values, set[str]()

    def take(self, name: str, otherwise: Any) -> Any:
        self._read.add(name)
        value = self._values.get(name)
        return otherwise if value is None else value

    def number(self, name: str, otherwise: float | None = None, least: float = LEAST) -> float:
        value = self.take(name, otherwise)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= 1 / LEAST:
            raise _core.ModelFileError(
                f"{self._s.source}: {name} of the rope is {value!r:.80}, wanted {least} to {1 / LEAST}"
            )
        return float(value)

    def must_equal(self, name: str, supported: object) -> None:
        value = self.take(name, supported)
        if value != supported:
            raise _core.UnsupportedModelError(
                f"{self._s.source}: {name} of the rope is {value!r:.80}, only {supported!r} is supported"
            )

    def finish(self) -> None:
        left = sorted(set(self._values) - self._read)
        if left:
            raise _core.UnsupportedModelError(
                f"{self._s.source}: {left[0]} of the rope is not known, its effect would be missing"
            )
