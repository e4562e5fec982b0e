"""The mathematics of every operation in float64 NumPy, and GGUF blocks for test data. Nothing of lanner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import erfc

import numpy as np

FLOATS = ("f32", "f16", "bf16")
CODES = ("q4_0", "q4_1", "q5_0", "q5_1")
SUPER = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs")
FORMATS = (*FLOATS, *CODES, "q8_0", *SUPER, "iq4_nl", "mxfp4")
BLOCK = 32
U = 2.0**-24
"""Unit roundoff of float32: one operation returns its exact result times 1 + d, |d| <= U."""


def gamma(n: float) -> float:
    """Bound on the relative error of n roundings in a row (Higham, Accuracy and Stability, lemma 3.1)."""
    return n * U / (1 - n * U)


# ---- blocks of GGUF ------------------------------------------------------------------------------


def block_of(fmt: str) -> tuple[int, int]:
    """Values and bytes of a block, as the `gguf` package has them."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    return GGML_QUANT_SIZES[GGMLQuantizationType[fmt.upper()]]


def fit(fmt: str, k: int) -> int:
    """The least number of at least k values that are whole blocks."""
    block = block_of(fmt)[0]
    return -(-k // block) * block


HALVES = {
    "q4_0": (0,), "q4_1": (0, 2), "q5_0": (0,), "q5_1": (0, 2), "q8_0": (0,), "q2_k": (80, 82),
    "q3_k": (108,), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,), "iq4_nl": (0,), "iq4_xs": (0,),
    "mxfp4": (),
}  # fmt: skip
"""Byte offsets of the float16 scale, and of the minimum, of a block."""


def random_rows(fmt: str, n: int, k: int, rng: np.random.Generator, *, extreme: bool = False) -> np.ndarray:
    """(n, row bytes) uint8: valid random rows; `extreme` mixes in the ends of codes, scales and minima."""
    if fmt in FLOATS:
        x = (rng.standard_normal((n, k)) / np.sqrt(k)).astype(np.float32)
        if extreme:
            x[rng.random((n, k)) < 0.1] = 0.0
            x[rng.random((n, k)) < 0.1] *= -1e-6  # subnormal as float16
        if fmt == "f32":
            return x.view(np.uint8)
        if fmt == "f16":
            return x.astype(np.float16).view(np.uint8)
        return np.ascontiguousarray((x.view(np.uint32) >> 16).astype(np.uint16)).view(np.uint8)
    block, n_bytes = block_of(fmt)
    blocks = rng.integers(0, 256, (n, k // block, n_bytes), np.uint8)
    if extreme:
        whole = rng.random(blocks.shape[:2]) < 0.3
        blocks[whole] = rng.choice(np.array([0x00, 0xFF, 0x0F, 0xF0, 0x80, 0x7F], np.uint8), (whole.sum(), 1))
    for at, size in zip(HALVES[fmt], (0.02, 0.2), strict=False):
        # Integer scales of up to 6 bits multiply those of a block of 256.
        half = rng.standard_normal((*blocks.shape[:2], 1)) * size / (32 if block == 256 else 1)
        half = half.astype(np.float16)
        if extreme:
            ends = np.array([0.0, -0.0, 6e-8, -6e-8, 6.1e-5, 65504.0, -65504.0], np.float16)
            chosen = rng.random(half.shape) < 0.3
            half[chosen] = rng.choice(ends, chosen.sum())
        blocks[..., at : at + 2] = half.view(np.uint8)
    if fmt == "mxfp4":  # E8M0: powers of two around 2^-8, or of any size
        blocks[..., 0] = rng.integers(0 if extreme else 110, 160 if extreme else 125, blocks.shape[:2])
    return blocks.reshape(n, k // block * n_bytes)


def dequantize(fmt: str, rows: np.ndarray) -> np.ndarray:
    """(n, k) float32 as the `gguf` package defines it."""
    from gguf import GGMLQuantizationType, quants

    if rows.size == 0:
        block, n_bytes = block_of(fmt)
        return np.zeros((len(rows), rows.shape[1] // n_bytes * block), np.float32)
    return np.asarray(quants.dequantize(rows, GGMLQuantizationType[fmt.upper()]), np.float32)


def quantized(fmt: str, x: np.ndarray) -> np.ndarray:
    """(..., row bytes) uint8 as the `gguf` package makes them of float32 (..., k)."""
    from gguf import GGMLQuantizationType, quants

    block, n_bytes = block_of(fmt)
    if x.size == 0:
        return np.zeros((*x.shape[:-1], x.shape[-1] // block * n_bytes), np.uint8)
    with np.errstate(all="ignore"):
        made = quants.quantize(x, GGMLQuantizationType[fmt.upper()])
    return np.ascontiguousarray(made).view(np.uint8).reshape(*x.shape[:-1], -1)


@dataclass(frozen=True)
class Blocks:
    """w = scale * code + minimum in float64, exact: code (n, blocks, 32), scale and minimum (n, blocks)."""

    code: np.ndarray
    scale: np.ndarray
    minimum: np.ndarray

    def values(self) -> np.ndarray:
        return (self.code * self.scale[..., None] + self.minimum[..., None]).reshape(len(self.code), -1)


def read_blocks(fmt: str, rows: np.ndarray) -> Blocks:
    """The fields of quantized rows, where 4- and 5-bit codes are unsigned."""
    bytes_ = {"q4_0": 18, "q4_1": 20, "q5_0": 22, "q5_1": 24, "q8_0": 34}[fmt]
    b = rows.reshape(len(rows), -1, bytes_)

    def half(at: int) -> np.ndarray:
        return np.ascontiguousarray(b[..., at : at + 2]).view(np.float16)[..., 0].astype(np.float64)

    scale = half(0)
    if fmt == "q8_0":
        return Blocks(b[..., 2:].view(np.int8).astype(np.float64), scale, np.zeros_like(scale))
    nibbles = b[..., -16:]
    code = np.concatenate([nibbles & 15, nibbles >> 4], axis=-1).astype(np.float64)
    if fmt.startswith("q5"):
        fifth = np.unpackbits(b[..., bytes_ - 20 : bytes_ - 16], axis=-1, bitorder="little")
        code += 16.0 * fifth
    minimum = half(2) if fmt.endswith("_1") else -(16.0 if fmt == "q5_0" else 8.0) * scale
    return Blocks(code, scale, minimum)


@dataclass(frozen=True)
class Parts:
    """w = above + minimum in float64 (n, k): what an unsigned code adds to the least value of its block.

    minimum is 0 where the kernel's sums of integers already hold the offset of the codes.
    """

    above: np.ndarray
    minimum: np.ndarray


LEAST_CODES = {"q2_k": (16, 80, 0), "q4_k": (16, 144, 0), "q5_k": (16, 176, 0), "mxfp4": (1, 17, 0xFF)}
"""Bytes of a block that hold codes, and the byte of the least value."""


def read_parts(fmt: str, rows: np.ndarray) -> Parts:
    """Of the formats of `Blocks` exact; of the others up to the rounding of their float32 values."""
    if fmt in (*CODES, "q8_0"):
        w = read_blocks(fmt, rows)
        minimum = np.repeat(w.minimum, BLOCK, axis=1)
        return Parts((w.code * w.scale[..., None]).reshape(minimum.shape), minimum)
    values, minimum = dequantize(fmt, rows).astype(np.float64), np.zeros((1, 1))
    if fmt in LEAST_CODES:
        begin, end, byte = LEAST_CODES[fmt]
        least = rows.reshape(len(rows), -1, block_of(fmt)[1]).copy()
        least[..., begin:end] = byte
        minimum = dequantize(fmt, least.reshape(rows.shape)).astype(np.float64)
    return Parts(values - minimum, np.broadcast_to(minimum, values.shape))


def half_split(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of interleaved rotary pairs (2i, 2i + 1) in half-split order (i, i + head_dim / 2)."""
    heads = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape)


# ---- operations ----------------------------------------------------------------------------------


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, eps: float) -> np.ndarray:
    x = x.astype(np.float64)
    around = x - x.mean(axis=-1, keepdims=True)
    y = around / np.sqrt(np.mean(around**2, axis=-1, keepdims=True) + eps) * weight
    return y if bias is None else y + bias


def quantize(x: np.ndarray, limit: int) -> np.ndarray:
    """(T, K) float64: x rounded to `limit` steps of the largest of each block of 32."""
    blocks = x.astype(np.float64).reshape(len(x), -1, BLOCK)
    largest = np.abs(blocks).max(axis=-1, keepdims=True)
    scale = np.where(largest > 0, largest / limit, 1.0)
    return (np.round(blocks / scale) * scale).reshape(x.shape)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * np.vectorize(erfc, otypes=[float])(-x / np.sqrt(2))


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "silu": silu, "gelu": gelu, "gelu_tanh": gelu_tanh, "relu": relu, "tanh": np.tanh, "sigmoid": sigmoid,
}  # fmt: skip


def softcap(x: np.ndarray, cap: float) -> np.ndarray:
    return cap * np.tanh(x / cap)


def route(logits: np.ndarray, k: int, normalise: bool) -> tuple[np.ndarray, np.ndarray]:
    """(T, k) ascending ids of the largest of softmax(logits), the lower on ties, and their weights."""
    logits = logits.astype(np.float64)
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    ids = np.sort(np.argsort(-logits, axis=-1, kind="stable")[:, :k], axis=-1)
    weights = np.take_along_axis(p, ids, axis=-1)
    return ids, weights / weights.sum(axis=-1, keepdims=True) if normalise else weights


def moe(
    x: np.ndarray,
    router: np.ndarray,
    gate: np.ndarray,
    up: np.ndarray,
    down: np.ndarray,
    k: int,
    normalise: bool,
) -> np.ndarray:
    """x (T, K), router (E, K), gate and up (E, M, K), down (E, N, M): the chosen experts, added up."""
    x = x.astype(np.float64)
    ids, weights = route(x @ router.T, k, normalise)
    out = np.zeros((len(x), down.shape[1]))
    for t, slot in np.ndindex(ids.shape):
        e = ids[t, slot]
        h = silu(x[t] @ gate[e].T) * (x[t] @ up[e].T)
        out[t] += weights[t, slot] * (h @ down[e].T)
    return out


def rope_table(positions: np.ndarray, inv_freq: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """(T, D): cosines, then sines."""
    angles = np.asarray(positions, np.float64)[:, None] * inv_freq
    return factor * np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def rotate(x: np.ndarray, table: np.ndarray) -> np.ndarray:
    """x (T, heads, D) in half-split pairs of the first dimensions that a table (T, up to D) has."""
    x, table = x.astype(np.float64), table[:, None].astype(np.float64)
    half = table.shape[-1] // 2
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cos, sin = table[..., :half], table[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


@dataclass(frozen=True)
class Attention:
    """Output (T, H, D), and what the bound on its error needs.

    `magnitude` is the sum of p |v|; `score_magnitude` the largest sum |q k| and `score_range` the distance of
    the largest from the smallest score, (T, H, 1).
    """

    out: np.ndarray
    magnitude: np.ndarray
    score_magnitude: np.ndarray
    score_range: np.ndarray


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    positions: np.ndarray,
    scale: float,
    *,
    window: int = 0,
    softcap: float = 0.0,
    causal: bool = True,
    bias: np.ndarray | None = None,
) -> Attention:
    """q (T, H, D) at `positions` over k and v (L, KH, D) at positions 0 .. L - 1.

    A window w: the keys at a distance 0 <= i - j < w; a softcap c: c tanh(s / c); bias (H, 2 reach + 1) by
    j - i, beyond reach the outermost.
    """
    n_heads, n_kv_heads = q.shape[1], k.shape[1]
    repeat = n_heads // n_kv_heads
    q = q.astype(np.float64).swapaxes(0, 1)  # (H, T, D)
    k = np.repeat(k.astype(np.float64), repeat, axis=1).transpose(1, 2, 0)  # (H, D, L)
    v = np.repeat(v.astype(np.float64), repeat, axis=1).swapaxes(0, 1)  # (H, L, D)
    distance = np.arange(k.shape[2]) - np.asarray(positions)[:, None]  # j - i, (T, L)
    visible = np.ones(distance.shape, bool) if not causal else distance <= 0
    if window:
        visible = visible & (distance > -window)
    scores, sizes = q @ k * scale, np.abs(q) @ np.abs(k) * abs(scale)
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    if bias is not None:
        reach = bias.shape[1] // 2
        added = bias.astype(np.float64)[:, np.clip(distance, -reach, reach) + reach]
        scores, sizes = scores + added, sizes + np.abs(added)
    scores = np.where(visible, scores, -np.inf)
    highest = scores.max(axis=-1, keepdims=True)
    p = np.exp(scores - highest)
    p /= p.sum(axis=-1, keepdims=True)
    sizes = np.where(visible, sizes, 0)
    lowest = np.where(visible, scores, np.inf).min(axis=-1, keepdims=True)
    each = (p @ v, p @ np.abs(v), sizes.max(axis=-1, keepdims=True), highest - lowest)
    return Attention(*(a.swapaxes(0, 1) for a in each))


# ---- a whole decoder -----------------------------------------------------------------------------


def rounded_like(fmt: str, x: np.ndarray) -> np.ndarray:
    """x as a weight of a format reads it: as it is, or in codes of 8 or 16 bits."""
    if fmt in FLOATS:
        return x
    return quantize(x, 32767 if fmt == "q8_0" else 127)


@dataclass(frozen=True)
class Tensor:
    """A weight (N, K) in float64, rows of Q and K already half-split, and its format."""

    fmt: str
    values: np.ndarray

    def product(self, x: np.ndarray, rounded: bool) -> np.ndarray:
        return (rounded_like(self.fmt, x) if rounded else x) @ self.values.T


@dataclass(frozen=True)
class Llama:
    """A decoder in float64; `weights` maps GGUF names to Tensors and to vectors of the norms.

    `rounded`: matmuls read their input in the codes that the formats of their weights ask for.
    """

    weights: dict[str, Tensor | np.ndarray]
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    theta: float
    eps: float
    rounded: bool = True

    def logits(self, ids: list[int]) -> np.ndarray:
        """(len(ids), vocab_size) of one sequence from position 0."""
        w, n = self.weights, len(ids)

        def linear(name: str, x: np.ndarray) -> np.ndarray:
            return w[name].product(x, self.rounded)

        x = w["token_embd"].values[ids]
        inv_freq = self.theta ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        table = rope_table(np.arange(n), inv_freq)
        for i in range(self.n_layers):
            at = f"blk.{i}."
            h = rms_norm(x, w[at + "attn_norm"], self.eps)
            q, k, v = (linear(at + f"attn_{c}", h).reshape(n, -1, self.head_dim) for c in "qkv")
            q, k = rotate(q, table), rotate(k, table)
            mixed = attention(q, k, v, np.arange(n), self.head_dim**-0.5).out
            x = x + linear(at + "attn_output", mixed.reshape(n, -1))
            h = rms_norm(x, w[at + "ffn_norm"], self.eps)
            h = silu(linear(at + "ffn_gate", h)) * linear(at + "ffn_up", h)
            x = x + linear(at + "ffn_down", h)
        return linear("output" if "output" in w else "token_embd", rms_norm(x, w["output_norm"], self.eps))
