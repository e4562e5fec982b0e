"""Cases of the operations on rows of arrays: shapes, inputs, float64 results and the promised bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import erfc

import numpy as np

from cases import RowsCase
from reference import U

Array = np.ndarray
LARGEST = float(np.finfo(np.float32).max)

LENGTHS = (*range(1, 33), 61, 257, 576, 640, 896, 1536, 2048, 4095, 4096, 4097, 4864, 8192, 12289, 49152)
"""Every tail up to twice the vector width, primes, real widths, and both sides of a chunk of 4096."""

VOCABULARIES = (49152, 151936, 262144)
"""Of the catalogue's models: the rows that samplers see."""

ROW_CASES = [RowsCase(5 if cols < 2048 else 2, cols) for cols in LENGTHS]


@dataclass(frozen=True)
class Oracle:
    """What an operation gives in float64, and by how much it may be off."""

    wanted: Array
    bound: Array

    def check(self, got: Array) -> None:
        """Infinity where it is wanted or within reach, NaN where it is wanted.

        An infinite bound claims nothing.
        """
        wanted, bound = (np.broadcast_to(a, got.shape) for a in (self.wanted, self.bound))
        with np.errstate(all="ignore"):
            right = (np.abs(got - wanted) <= bound) | (got == wanted) | np.isposinf(bound)
            right |= np.isnan(got) & np.isnan(wanted)
            right |= np.isinf(got) & (np.sign(got) == np.sign(wanted)) & (np.abs(wanted) + bound > LARGEST)
        for at in list(zip(*np.nonzero(~right), strict=True))[:1] if right.ndim else [()] * (not right):
            wrong = f"{np.sum(~right)} wrong, first {at}"
            raise AssertionError(f"{wrong}: {got[at]!r}, wanted {wanted[at]!r} within {bound[at]!r}")


VALUES = ("normal", "wide", "large", "tiny", "zeros", "ties", "special")


def spread(rng: np.random.Generator, shape: tuple[int, ...], kind: str = "normal") -> Array:
    """float32 of a kind of VALUES.

    wide: of different sizes; large: 1e34; tiny: denormal; zeros: mostly, of both signs; ties: small integers;
    special: NaN, infinities, the largest and the smallest among others.
    """
    x = rng.standard_normal(shape)
    if kind == "wide":
        x = x * 10.0 ** rng.uniform(-3, 3, shape)
    elif kind in ("large", "tiny"):
        x = x * (1e34 if kind == "large" else 1e-41)
    elif kind == "zeros":
        x = np.where(rng.random(shape) < 0.8, rng.choice([0.0, -0.0], shape), x)
    elif kind == "ties":
        x = rng.integers(-3, 4, shape)
    elif kind == "special":
        ends = np.array([np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, -0.0])
        x = np.where(rng.random(shape) < 0.02, rng.choice(ends, shape), x)
    return x.astype(np.float32)


def rows(case: RowsCase, scale: float = 1.0) -> Array:
    return (np.random.default_rng(case.seed).standard_normal((case.rows, case.cols)) * scale).astype(
        np.float32
    )


def _shifted(x: Array) -> tuple[Array, Array, float]:
    wide = x.astype(np.float64)
    with np.errstate(invalid="ignore"):
        below = wide - wide.max(-1, keepdims=True)
        return below, np.exp(below).sum(-1, keepdims=True), float(np.log(x.shape[-1]))


def softmax(x: Array) -> Oracle:
    below, total, log_n = _shifted(x)
    y = np.exp(below) / total
    return Oracle(y, U * (2.5 * np.minimum(-below, 87) + 2.5 * log_n + 80) * y + 1.7e-38)


def log_softmax(x: Array) -> Oracle:
    below, total, log_n = _shifted(x)
    y = below - np.log(total)
    return Oracle(y, U * (2 * np.abs(y) + 2.5 * log_n + 80))


def logsumexp(x: Array) -> Oracle:
    _, total, log_n = _shifted(x)
    top = x.astype(np.float64).max(-1)
    y = np.where(np.isinf(top), top, np.log(total[..., 0]) + top)
    return Oracle(y, U * (np.abs(y) + 2.5 * log_n + 80))


def rms_norm(x: Array, weight: Array | None = None, eps: float = 1e-6) -> Oracle:
    wide, n = x.astype(np.float64), x.shape[-1]
    w = np.float64(1) if weight is None else weight.astype(np.float64)
    with np.errstate(all="ignore"):
        y = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + np.float32(eps)) * w
    return Oracle(y, U * (n / 32 + 10) * np.abs(y) + 2.0**-149 * (1 + np.abs(w)))


def layer_norm(x: Array, weight: Array | None = None, bias: Array | None = None, eps: float = 1e-5) -> Oracle:
    wide = x.astype(np.float64)
    w = np.float64(1) if weight is None else weight.astype(np.float64)
    b = np.float64(0) if bias is None else bias.astype(np.float64)
    with np.errstate(all="ignore"):
        around = wide - wide.mean(-1, keepdims=True)
        z = around / np.sqrt((around**2).mean(-1, keepdims=True) + np.float32(eps))
    return Oracle(z * w + b, U * ((64 + 26 * np.abs(z)) * np.abs(w) + np.abs(b)) + 2.0**-148)


def _gated(x: Array, w: Array) -> Array:
    """x / (1 + exp(-w)), 0 at -inf."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isneginf(w), 0, np.where(np.isneginf(w), 0, x) * np.exp(-np.logaddexp(0, -w)))


def silu(x: Array) -> Oracle:
    y = _gated(x.astype(np.float64), x.astype(np.float64))
    return Oracle(y, U * 7 * np.abs(y) + 1.5e-36)


def gelu(x: Array) -> Oracle:
    wide = x.astype(np.float64)
    half = np.maximum(wide, -1e300)  # the limit at -inf is 0
    with np.errstate(invalid="ignore"):
        y = half * 0.5 * np.vectorize(erfc, otypes=[float])(-half / np.sqrt(2))
    return Oracle(y, U * (np.minimum(wide**2, 1e6) + 20) * np.abs(y) + 1e-36)


def gelu_tanh(x: Array) -> Oracle:
    wide = x.astype(np.float64)
    w = 2 * np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)
    y = _gated(wide, w)
    return Oracle(y, U * (4 * np.minimum(np.abs(w), 87) + 9) * np.abs(y) + 1e-36)


def relu(x: Array) -> Oracle:
    return Oracle(np.maximum(x.astype(np.float64), 0), np.zeros(()))


def tanh(x: Array) -> Oracle:
    """Within 3 ulp, as csrc/simd/math.h says."""
    y = np.tanh(x.astype(np.float64))
    return Oracle(y, U * 6 * np.abs(y) + 2.0**-149)


def sigmoid(x: Array) -> Oracle:
    """The roundings of silu; exp(-87) is the largest value that counts as 0."""
    with np.errstate(over="ignore"):
        y = 1 / (1 + np.exp(-x.astype(np.float64)))
    return Oracle(y, U * 7 * np.abs(y) + 1.7e-38)


def rope(x: Array, angles: Array, pairing: str, magnitude: float = 1.0) -> Oracle:
    """`angles` (..., pairs) of the rows of x."""
    wide, half = x.astype(np.float64), angles.shape[-1]
    at = (slice(0, half), slice(half, 2 * half)) if pairing == "half" else (
        slice(0, 2 * half, 2), slice(1, 2 * half, 2))  # fmt: skip
    a, b, cos, sin = wide[..., at[0]], wide[..., at[1]], np.cos(angles), np.sin(angles)
    y, bound = wide.copy(), np.full(wide.shape, 2.0**-148)
    with np.errstate(invalid="ignore"):
        y[..., at[0]], y[..., at[1]] = magnitude * (a * cos - b * sin), magnitude * (b * cos + a * sin)
        for part in at:
            bound[..., part] += (3 * U + 2.0**-50 * np.abs(angles)) * abs(magnitude) * (np.abs(a) + np.abs(b))
    bound[..., 2 * half :] = 0
    return Oracle(y, bound)


def times(alone: Oracle, up: Array, absolute: float) -> Oracle:
    """A gated activation: the float32 product with `up` adds one rounding; `absolute` is the term of `alone`.

    No claim where exact arithmetic has the last of an underflow and up is infinite: 0 * inf is NaN.
    """
    wide = up.astype(np.float64)
    with np.errstate(invalid="ignore"):
        y = alone.wanted * wide
        bound = alone.bound * np.abs(wide) + U * np.abs(y) + 2.0**-149
    return Oracle(y, np.where(np.isinf(up) & (np.abs(alone.wanted) <= absolute), np.inf, bound))


def topk_ids(x: Array, k: int) -> Array:
    """Along the last axis, by a stable sort, NaN first."""
    nan = np.isnan(x)
    return np.lexsort((np.where(nan, 0, -x), ~nan), axis=-1)[..., :k]


ROWWISE: dict[str, Callable[[Array], Oracle]] = {
    "softmax": softmax,
    "log_softmax": log_softmax,
    "logsumexp": logsumexp,
    "rms_norm": rms_norm,
    "layer_norm": layer_norm,
}
ELEMENTWISE: dict[str, Callable[[Array], Oracle]] = {"silu": silu, "gelu": gelu, "gelu_tanh": gelu_tanh}
ACTIVATIONS = ELEMENTWISE | {"relu": relu, "tanh": tanh, "sigmoid": sigmoid}
"""Of the programs, which have more functions than the arrays."""
