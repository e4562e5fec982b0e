"""Scaled dot-product attention on NumPy arrays."""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from lanner import _core
from lanner.ops._arrays import Array, contiguous, floats, integer, is_cuda, number, output


@overload
def sdpa(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    mask: Array | None = None,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    out: Array | None = None,
    device: str = "cpu",
    return_weights: Literal[False] = False,
) -> Array: ...


@overload
def sdpa(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    mask: Array | None = None,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    out: Array | None = None,
    device: str = "cpu",
    return_weights: Literal[True],
) -> tuple[Array, npt.NDArray[np.float32]]: ...


def sdpa(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    mask: Array | None = None,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    out: Array | None = None,
    device: str = "cpu",
    return_weights: bool = False,
) -> Array | tuple[Array, npt.NDArray[np.float32]]:
    """Scaled dot-product attention: softmax over the keys of scale * q . k, applied to v.

    Fused: the scores exist only as tiles of 64 keys (online softmax, Milakov and Gimelshein 2018; tiling as
    in FlashAttention, Dao et al. 2022). Query head h reads key head h // (heads / kv_heads), as in
    grouped-query attention (Ainslie et al. 2023).

    Args:
        q: (batch, heads, q_len, head_dim), float32 or float16. Also (heads, q_len, head_dim) or
            (q_len, head_dim), one batch entry and one head; k and v then have as many axes. Sizes of zero are
            allowed, other than a head_dim. Only the mask is broadcast.
        k: (batch, kv_heads, kv_len, head_dim), dtype of q; heads is a multiple of kv_heads.
        v: (batch, kv_heads, kv_len, head_dim of v), dtype of q. Both head_dims are 1 to 512.
        causal: The queries are the last positions of the keys: query i sees keys j <= i + kv_len - q_len.
            Queries that stand before the first key (q_len > kv_len) see none.
        mask: Broadcasts to (batch, heads, q_len, kv_len) without being materialised. Bool: True may attend.
            float32: is added to the scaled, capped score; -inf forbids.
        scale: Factor of the scores; 1 / sqrt(head_dim) by default.
        window: Query position i sees 0 <= i - j < window, at least 1; needs `causal`.
        softcap: Positive; a scaled score s becomes softcap * tanh(s / softcap), before the mask.
        out: Where to write; shape and dtype of the result, any strides. It may be q itself and may share no
            element with another input.
        device: "cpu", or "cuda", for tests of its kernel: all is copied to the GPU and back, and rounded to
            bfloat16 both ways; head_dims of 64, 128 or 256, no mask, no weights, no more queries than keys.
        return_weights: Also return the attention weights. They take memory for every score.

    Returns:
        (batch, heads, q_len, head_dim of v), dtype of q, as many axes as q. With `return_weights` a tuple of
        it and the weights (batch, heads, q_len, kv_len), float32.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: Shapes do not fit, or a parameter is out of range.

    Strides: any, without a copy where the last axis is contiguous and elements are aligned; else the array is
    copied first. float16 is converted tile by tile, never as a whole. Any thread may call; the GIL is
    released.

    Error: float32 arithmetic. Against float64 on the same inputs, an element of the result is off by at most
    (4 * 2^-24 S + 1e-6) max|v| + 2^-149 kv_len, where S is the largest sum of |scale * q_i * k_i| in its row
    (plus |mask|, where it is added), and max|v| that over the keys it sees. A weight w is off by at most
    (8 * 2^-24 S + 1e-6) w + 1.7e-38. The first terms are the rounding of the scores, which every float32
    implementation has; their 4 and 8 hold for rounding errors of random sign. They are tested, also with
    large scores, and not proved: the worst case of a chain is about 2 head_dim. float16 outputs are rounded
    once more, by 2^-11 of their size or 2^-25.

    Special values: a row with no valid key gives zeros, weights too. A key that a row may not attend to
    contributes nothing, not even where it holds NaN or infinity. A score of -inf weighs 0. A score of NaN or
    +inf makes its row NaN, other rows stay as they are. Denormals are not flushed; weights below exp(-87) of
    the largest are 0.

    Reproducible: the bits of a row depend on its own query, keys, values and mask, not on other rows, batch,
    heads, threads, strides or alignment; keys are taken in tiles of 64 and chunks of 256 that are merged in
    order. Another instruction set may give other bits.

    Complexity: head_dim + head_dim of v multiply-adds per query head and pair of positions; blocks of keys
    that none of several neighbouring queries sees are skipped. Memory: at most 1 MB per thread, kept for the
    next call; with few queries also partial results, 4 bytes times 2 + head_dim of v, rounded up to 16, for
    each query head and 256 keys.
    """
    on_gpu = is_cuda("sdpa", device)
    q, k, v = (
        floats("sdpa", name, x, (np.float32, np.float16)) for name, x in (("q", q), ("k", k), ("v", v))
    )
    _check_shapes(q, k, v)
    for name, flag in (("causal", causal), ("return_weights", return_weights)):
        if not isinstance(flag, (bool, np.bool_)):
            raise TypeError(f"sdpa: {name} is a {type(flag).__name__}, wanted a bool")
    shape = (*q.shape[:-1], v.shape[-1])
    wide_mask = _mask(mask, (*q.shape[:-1], k.shape[-2]))
    result = output("sdpa", out, shape, q.dtype, {"q": q}, {"k": k, "v": v, "mask": wide_mask})
    weights = np.empty((*q.shape[:-1], k.shape[-2]), np.float32) if return_weights else None
    if on_gpu:
        if mask is not None or return_weights:
            raise ValueError("sdpa: mask and return_weights have no kernel with device='cuda'")
        from lanner.cuda import array_ops

        options: dict[str, Any] = {
            "causal": bool(causal),
            "scale": _scale(scale, q.shape[-1]),
            "softcap": _softcap(softcap),
        }
        made = array_ops.sdpa(*map(_four_axes, (q, k, v)), window=_window(window, causal), **options)
        result[...] = made.reshape(shape)
        return result
    target = result if _is_direct(result) else np.empty(shape, q.dtype)
    _core.array.sdpa(
        *(_four_axes(x) for x in (_direct(q), _direct(k), _direct(v), target)),
        mask=None if wide_mask is None else _four_axes(wide_mask),
        weights=None if weights is None else _four_axes(weights),
        causal=bool(causal),
        scale=_scale(scale, q.shape[-1]),
        window=_window(window, causal),
        softcap=_softcap(softcap),
    )
    if target is not result:
        result[...] = target
    return result if weights is None else (result, weights)


def _check_shapes(q: Array, k: Array, v: Array) -> None:
    if not 2 <= q.ndim <= 4:
        raise ValueError(f"sdpa: q has {q.ndim} axes, wanted 2, 3 or 4")
    for name, x in (("k", k), ("v", v)):
        if x.dtype != q.dtype:
            raise TypeError(f"sdpa: {name} is {x.dtype.name}, q is {q.dtype.name}, wanted the same")
        if x.ndim != q.ndim:
            raise ValueError(f"sdpa: {name} has {x.ndim} axes, q has {q.ndim}, wanted as many")
        if q.ndim == 4 and x.shape[0] != q.shape[0]:
            raise ValueError(f"sdpa: {name} has a batch of {x.shape[0]}, q of {q.shape[0]}")
    if k.shape[-1] != q.shape[-1]:
        raise ValueError(f"sdpa: k has a head_dim of {k.shape[-1]}, q of {q.shape[-1]}")
    if v.shape[:-1] != k.shape[:-1]:
        raise ValueError(f"sdpa: v has shape {v.shape}, k {k.shape}, wanted all but the last number equal")


def _mask(mask: Any, shape: tuple[int, ...]) -> Array | None:
    """`mask` as wide as the scores, by strides of 0."""
    if mask is None:
        return None
    mask = floats("sdpa", "mask", mask, (np.bool_, np.float32))
    try:
        return np.broadcast_to(mask if mask.flags.aligned else mask.copy(), shape)
    except ValueError:
        raise ValueError(f"sdpa: mask has shape {mask.shape}, wanted what broadcasts to {shape}") from None


def _is_direct(x: Array) -> bool:
    return x.flags.aligned and (x.shape[-1] == 1 or x.strides[-1] == x.itemsize)


def _direct(x: Array) -> Array:
    return x if _is_direct(x) else contiguous(x)


def _four_axes(x: Array) -> Array:
    return x[(None,) * (4 - x.ndim)]


def _scale(scale: Any, head_dim: int) -> float:
    if scale is None:
        return 1 / math.sqrt(max(head_dim, 1))
    value = number("sdpa", "scale", scale)
    if not abs(value) <= np.finfo(np.float32).max:
        raise ValueError(f"sdpa: scale is {value}, wanted a finite float32")
    return value


def _window(window: Any, causal: bool) -> int:
    if window is None:
        return 0
    value = integer("sdpa", "window", window)
    if value < 1:
        raise ValueError(f"sdpa: window is {value}, wanted at least 1")
    if not causal:
        raise ValueError("sdpa: window needs causal=True")
    return min(value, 2**62)


def _softcap(softcap: Any) -> float:
    if softcap is None:
        return 0.0
    value = number("sdpa", "softcap", softcap)
    limits = np.finfo(np.float32)
    if not limits.tiny <= value <= limits.max:
        raise ValueError(f"sdpa: softcap is {value}, wanted a positive finite float32")
    return value
