"""Operations as a person writes them in NumPy who cares about time: in place, and matrix products as BLAS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lanner import ops

Array = npt.NDArray[Any]
Call = Callable[[], Array]


def softmax(x: Array, out: Array) -> Array:
    """Along the last axis, into out."""
    np.subtract(x, x.max(-1, keepdims=True), out=out)
    np.exp(out, out=out)
    out /= out.sum(-1, keepdims=True)
    return out


def logsumexp(x: Array, out: Array) -> Array:
    """Along the last axis; out is where the exponentials go."""
    top = x.max(-1, keepdims=True)
    np.exp(np.subtract(x, top, out=out), out=out)
    return np.asarray((np.log(out.sum(-1, keepdims=True)) + top)[..., 0])


def rms_norm(x: Array, weight: Array, out: Array) -> Array:
    """Over the last axis, into out."""
    scale = 1 / np.sqrt(np.einsum("...i,...i", x, x)[..., None] / np.float32(x.shape[-1]) + np.float32(1e-6))
    np.multiply(x, scale, out=out)
    out *= weight
    return out


def layer_norm(x: Array, weight: Array, bias: Array, out: Array) -> Array:
    """Over the last axis, into out."""
    np.subtract(x, x.mean(-1, keepdims=True), out=out)
    variance = np.einsum("...i,...i", out, out)[..., None] / np.float32(x.shape[-1])
    out /= np.sqrt(variance + np.float32(1e-5))
    out *= weight
    out += bias
    return out


def topk(x: Array, k: int) -> Array:
    """The k largest along the last axis, in descending order."""
    largest = np.partition(x, -k, -1)[..., -k:]
    return np.sort(largest, -1)[..., ::-1]


def rows(op: str, x: Array, weight: Array, bias: Array, k: int) -> Call:
    """A call of an operation along the last axis."""
    out = np.zeros_like(x)
    calls: dict[str, Call] = {
        "softmax": lambda: softmax(x, out),
        "log_softmax": lambda: np.subtract(x, logsumexp(x, out)[..., None], out=out),
        "logsumexp": lambda: logsumexp(x, out),
        "rms_norm": lambda: rms_norm(x, weight, out),
        "layer_norm": lambda: layer_norm(x, weight, bias, out),
        "topk": lambda: topk(x, k),
    }
    return calls[op]


def activation(op: str, x: Array, up: Array | None = None) -> Call:
    """silu and swiglu, and the tanh form of gelu and geglu."""
    out = np.zeros_like(x)

    def silu() -> Array:
        np.exp(np.negative(x, out=out), out=out)
        np.divide(x, np.add(out, np.float32(1), out=out), out=out)
        return out if up is None else np.multiply(out, up, out=out)

    def gelu() -> Array:  # 0.5 (1 + tanh(w / 2)) is 1 / (1 + exp(-w))
        np.multiply(x, x, out=out)
        np.multiply(out, np.float32(-2 * 0.044715 * (2 / np.pi) ** 0.5), out=out)
        np.subtract(out, np.float32(2 * (2 / np.pi) ** 0.5), out=out)
        np.exp(np.multiply(out, x, out=out), out=out)
        np.divide(x, np.add(out, np.float32(1), out=out), out=out)
        return out if up is None else np.multiply(out, up, out=out)

    return silu if op in ("silu", "swiglu") else gelu


def rope(x: Array, positions: Array) -> Call:
    """Half-split pairs of (batch, heads, length, head_dim)."""
    half, out = x.shape[-1] // 2, np.zeros_like(x)
    inv_freq = ops.rope_frequencies(2 * half).astype(np.float32)

    def turn() -> Array:
        angles = np.outer(positions.astype(np.float32), inv_freq)
        cos, sin = np.cos(angles), np.sin(angles)
        a, b = x[..., :half], x[..., half:]
        np.multiply(a, cos, out=out[..., :half])
        out[..., :half] -= b * sin
        np.multiply(b, cos, out=out[..., half:])
        out[..., half:] += a * sin
        return out

    return turn


def sdpa(q: Array, k: Array, v: Array) -> Call:
    """Causal attention with all scores in memory; query heads of a key head are rows of one product."""
    batch, heads, q_len, head_dim = q.shape
    kv_heads, kv_len = k.shape[1:3]
    group = heads // kv_heads
    scores = np.zeros((batch, kv_heads, group * q_len, kv_len), np.float32)
    hidden = np.arange(kv_len) > np.arange(q_len)[:, None] + kv_len - q_len
    mask = np.tile(np.where(hidden, np.float32(-np.inf), np.float32(0)), (group, 1))
    scale = np.float32(head_dim**-0.5)

    def attend() -> Array:
        rows = (q * scale).reshape(batch, kv_heads, group * q_len, head_dim)
        np.matmul(rows, k.swapaxes(2, 3), out=scores)
        if q_len > 1:
            np.add(scores, mask, out=scores)
        return np.asarray(softmax(scores, scores) @ v).reshape(q.shape)

    return attend
