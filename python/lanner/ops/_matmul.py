"""Matrix multiplication with float and quantized weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lanner import _core
from lanner.ops._arrays import Array, contiguous, fill, floats, is_cuda, output
from lanner.ops._quantization import FORMATS, QUANTIZABLE, checked_format, dequantize

Packed = _core.Packed

_WEIGHTS = {"float32": "f32", "float16": "f16", "uint16": "bf16"}
_LARGEST = 2**31 - 32


def pack(w: Array, format: str | None = None) -> Packed:
    """A weight in the layout that the kernels read: panels of 16 outputs, quantized if asked.

    Pack a weight that is used more than once: `matmul` with an array packs it anew on every call.

    Args:
        w: (N, K), both above 0, a row per output as model files store it; float32, float16, or uint16 that
            holds bfloat16. Or uint8 (N, bytes of a row): blocks of a GGUF format, as files and `quantize`
            have them. An array that is strided or not aligned is copied; nothing is broadcast.
        format: one that `quantize` makes: f32, f16, bf16, q4_0, q4_1, q5_0, q5_1 or q8_0, by its rule on the
            float32 values of w; None keeps the type of w. For blocks, any format that `dequantize` reads, and
            not None.

    Returns:
        Packed: `.shape` (N, K), `.format`, `.nbytes`, and `.unpack()`, the float32 weights it stands for.

    Error: none for a type that is kept and for blocks; otherwise that of `quantize`.

    Special values: w and the scales of blocks must be finite. Denormals are kept.

    Reproducible: the one right layout, on every instruction set and number of threads. Complexity: O(size).
    Memory: `.nbytes`, for quantized formats N rounded up to 16 rows of the bytes of their blocks or a little
    more. Any thread may call; the GIL is released.

    Raises:
        TypeError: w is no such array, format no str.
        ValueError: another shape, an unknown format, a K that is not a multiple of its block, or values or
            scales that are infinite, NaN, or beyond the scales of the format.
    """
    w = floats("pack", "w", w, (np.float32, np.float16, np.uint16, np.uint8))
    if w.ndim != 2 or 0 in w.shape or max(w.shape) > _LARGEST:
        raise ValueError(f"pack: w has shape {w.shape}, wanted two sizes from 1 to {_LARGEST}")
    if w.dtype == np.uint8:
        format = checked_format("pack", format)
        block, n_bytes = FORMATS[format]
        if w.shape[1] % n_bytes:
            raise ValueError(
                f"pack: w has rows of {w.shape[1]} bytes, wanted a multiple of {n_bytes} for {format}"
            )
        return _packed(contiguous(w), format, w.shape[1] // n_bytes * block)
    given = _WEIGHTS[w.dtype.name]
    format = given if format is None else checked_format("pack", format, QUANTIZABLE)
    block, n_bytes = FORMATS[format]
    if w.shape[1] % block:
        raise ValueError(f"pack: w has {w.shape[1]} columns, wanted a multiple of {block} for {format}")
    data = contiguous(w).view(np.uint8)
    if format != given:
        values = dequantize(data, given)
        data = np.empty((len(w), w.shape[1] // block * n_bytes), np.uint8)
        if not _core.array.quantize(values, format, data):
            raise ValueError(f"pack: w holds infinite or NaN values, or values beyond the scales of {format}")
    return _packed(data, format, w.shape[1])


def _packed(data: npt.NDArray[np.uint8], format: str, k: int) -> Packed:
    try:
        return _core.Packed(
            [(data.reshape(-1), format, len(data), k, 0)], n_threads=_core.array.get_threads()
        )
    except _core.ModelFileError as error:
        raise ValueError(str(error)) from None


def matmul(
    x: Array, w: Array | Packed, *, bias: Array | None = None, out: Array | None = None, device: str = "cpu"
) -> npt.NDArray[np.float32]:
    """x @ w for an array w, x @ w.T for a packed one, plus bias, in float32.

    Args:
        x: float32 (..., K), at least one axis; an array that is strided or not aligned is copied.
        w: an array (K, N), float32, float16 or uint16 that holds bfloat16, copied where it is strided or not
            aligned; or what `pack` made of (N, K). Without leading axes: nothing is broadcast against x.
        bias: float32 (N,), added to every row.
        out: float32 (..., N), any strides, no part of an input.
        device: "cpu", or "cuda", for tests of its kernels: all is copied to the GPU and back, and x and the
            weights are rounded to bfloat16.

    Returns:
        float32 (..., N), (N,) for a vector x; `out` if given. Sizes of zero are allowed; where K is 0, every
        row is bias, or 0.

    Error of an array or a packed float weight, against exact arithmetic on the same inputs: at most
    2^-24 K sum_k |x_k w_k| + 2^-149 K, a chain of K fused multiply-adds from 0, the bound of Higham
    (Accuracy and Stability of Numerical Algorithms, 2002, section 3.1).

    A quantized weight meets x in codes per 32 values, c = round(x * (limit / m)) of m = max|x|, standing for
    c * (m / limit), where limit is 127 against 2- to 6-bit weights and 32767 against q8_0, iq4_nl and iq4_xs
    (integers are summed exactly within a block). Error against exact arithmetic on these and on the values
    that `Packed.unpack` gives: at most 2^-24 (K/16 + 6) sum_k |x_k| (|w_k| + 2 |m_k|) + 2^-126 K, with m_k
    the least value that a code in the block of w_k can mean, 0 for q8_0, q3_k, q6_k, iq4_nl and iq4_xs.
    Rounding x itself moves the result by at most sum_k |w_k| m / (2 limit).

    A bias adds one rounding, 2^-24 of the result.

    Special values: NaN, infinities and overflow propagate as in IEEE arithmetic, and denormals are numbers
    like others. With a quantized weight, a block of x that holds NaN or an infinity makes its whole row
    non-finite, and one whose scale m / limit would be denormal counts as 0.

    Reproducible: every output sums over K in one fixed order, so a row has the same bits whatever the other
    rows, their number, the other columns, the number of threads and alignment are, and whether a float weight
    is packed. Another instruction set may give other bits.

    Complexity: rows * K * N multiply-adds. Few rows read the weight once; more of them unpack it in blocks
    that stay in cache (Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008). Any
    thread may call; the GIL is released.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: shapes do not meet, a size is beyond 2^31 - 32, or out does not fit or overlaps an input.
    """
    on_gpu = is_cuda("matmul", device)
    x = floats("matmul", "x", x)
    if x.ndim == 0:
        raise ValueError("matmul: x has no axes, wanted (..., K)")
    if isinstance(w, _core.Packed):
        n, k = w.shape
    else:
        w = floats("matmul", "w", w, (np.float32, np.float16, np.uint16))
        if w.ndim != 2:
            raise ValueError(f"matmul: w has {w.ndim} axes, wanted (K, N)")
        k, n = w.shape
    if x.shape[-1] != k:
        raise ValueError(f"matmul: x has {x.shape[-1]} columns, w has {k} rows of inputs")
    if bias is not None:
        bias = floats("matmul", "bias", bias)
        if bias.shape != (n,):
            raise ValueError(f"matmul: bias has shape {bias.shape}, wanted ({n},)")
    read = {"x": x, "w": None if isinstance(w, _core.Packed) else w, "bias": bias}
    out = output("matmul", out, (*x.shape[:-1], n), np.float32, {}, read)
    if max(out.size // n if n else 0, k, n) > _LARGEST:
        raise ValueError(
            f"matmul: {out.size // n} rows, {k} and {n} columns, wanted at most {_LARGEST} of each"
        )
    if out.size == 0:
        return out
    if k == 0:
        out[...] = 0.0 if bias is None else bias
        return out
    if on_gpu:
        from lanner.cuda import array_ops

        out[...] = array_ops.matmul(x.reshape(-1, k), w, bias).reshape(out.shape)
        return out
    return fill(out, lambda to: _multiply(x, w, bias, to.reshape(-1, n)))


def _multiply(x: Array, w: Any, bias: Array | None, out: Array) -> None:
    rows = contiguous(x).reshape(len(out), -1)
    bias = None if bias is None else contiguous(bias)
    if isinstance(w, _core.Packed):
        _core.array.matmul_packed(rows, w, bias, out)
    else:
        _core.array.matmul_array(rows, contiguous(w), _WEIGHTS[w.dtype.name], bias, out)
