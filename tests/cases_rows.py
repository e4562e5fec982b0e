"""Cases of the operations on rows of arrays: shapes, inputs, float64 results and the promised bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import erfc

import numpy as np

from cases import RowsCase
from reference import U

Array = np.ndarray

LENGTHS = (*range(1, 33), 61, 257, 576, 640, 896, 1536, 2048, 4095, 4096, 4097, 8192, 12289, 49152)
"""Every tail up to twice the vector width, primes, real widths, and both sides of a chunk of 4096."""

ROW_CASES = [RowsCase(5 if cols < 2048 else 2, cols) for cols in LENGTHS]


@dataclass(frozen=True)
class Oracle:
    """What an operation gives in float64, and by how much it may be off."""

    wanted: Array
    bound: Array

    def check(self, got: Array) -> None:
        np.testing.assert_array_less(np.abs(got - self.wanted), self.bound)


def rows(case: RowsCase, scale: float = 1.0) -> Array:
    return (np.random.default_rng(case.seed).standard_normal((case.rows, case.cols)) * scale).astype(
        np.float32
    )


def _shifted(x: Array) -> tuple[Array, Array, float]:
    wide = x.astype(np.float64)
    top = wide.max(-1, keepdims=True)
    return wide - top, np.exp(wide - top).sum(-1, keepdims=True), float(np.log(x.shape[-1]))


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
    y = (np.log(total) + x.astype(np.float64).max(-1, keepdims=True))[..., 0]
    return Oracle(y, U * (np.abs(y) + 2.5 * log_n + 80))


def rms_norm(x: Array, weight: Array | None = None, eps: float = 1e-6) -> Oracle:
    wide, n = x.astype(np.float64), x.shape[-1]
    y = (
        wide
        / np.sqrt((wide**2).mean(-1, keepdims=True) + np.float32(eps))
        * (1 if weight is None else weight)
    )
    return Oracle(y, U * (n / 32 + 10) * np.abs(y) + 2.0**-149)


def layer_norm(x: Array, weight: Array | None = None, bias: Array | None = None, eps: float = 1e-5) -> Oracle:
    wide = x.astype(np.float64)
    w = np.float64(1) if weight is None else weight.astype(np.float64)
    b = np.float64(0) if bias is None else bias.astype(np.float64)
    spread = wide - wide.mean(-1, keepdims=True)
    z = spread / np.sqrt((spread**2).mean(-1, keepdims=True) + np.float32(eps))
    return Oracle(z * w + b, U * ((64 + 26 * np.abs(z)) * np.abs(w) + np.abs(b)) + 2.0**-148)


def silu(x: Array) -> Oracle:
    wide = x.astype(np.float64)
    y = wide * np.exp(-np.logaddexp(0, -wide))
    return Oracle(y, U * 7 * np.abs(y) + 1.5e-36)


def gelu(x: Array) -> Oracle:
    wide = x.astype(np.float64)
    y = wide * 0.5 * np.vectorize(erfc, otypes=[float])(-wide / np.sqrt(2))
    return Oracle(y, U * (wide**2 + 20) * np.abs(y) + 1e-36)


def gelu_tanh(x: Array) -> Oracle:
    wide = x.astype(np.float64)
    w = 2 * np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)
    y = wide * np.exp(-np.logaddexp(0, -w))
    return Oracle(y, U * (4 * np.minimum(np.abs(w), 87) + 9) * np.abs(y) + 1e-36)


def rope(x: Array, angles: Array, pairing: str, magnitude: float = 1.0) -> Oracle:
    """`angles` (..., pairs) of the rows of x."""
    wide, half = x.astype(np.float64), angles.shape[-1]
    at = (slice(0, half), slice(half, 2 * half)) if pairing == "half" else (
        slice(0, 2 * half, 2), slice(1, 2 * half, 2))  # fmt: skip
    a, b, cos, sin = wide[..., at[0]], wide[..., at[1]], np.cos(angles), np.sin(angles)
    y, bound = wide.copy(), np.full(wide.shape, 2.0**-148)
    y[..., at[0]], y[..., at[1]] = magnitude * (a * cos - b * sin), magnitude * (b * cos + a * sin)
    for part in at:
        bound[..., part] += (3 * U + 2.0**-50 * np.abs(angles)) * magnitude * (np.abs(a) + np.abs(b))
    return Oracle(y, bound)


ROWWISE: dict[str, Callable[[Array], Oracle]] = {
    "softmax": softmax,
    "log_softmax": log_softmax,
    "logsumexp": logsumexp,
    "rms_norm": rms_norm,
    "layer_norm": layer_norm,
}
ELEMENTWISE: dict[str, Callable[[Array], Oracle]] = {"silu": silu, "gelu": gelu, "gelu_tanh": gelu_tanh}
