"""Matrix multiplication with float and quantized weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lanner import _core
from lanner.ops._arrays import Array, floats, output

Packed = _core.Packed

_WEIGHTS = {"float32": "f32", "float16": "f16", "uint16": "bf16"}
_QUANTIZED = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
_LARGEST = 2**31 - 32


def pack(w: Array, format: str = "f32") -> Packed:
    """A weight in the layout that the kernels read: panels of 16 outputs, quantized if asked.

    Pack a weight that is used more than once: `matmul` with an array packs it anew on every call.

    Args:
        w: (N, K), a row per output as model files store it; float32, float16, or uint16 that holds bfloat16.
        format: "f32" keeps the type of w; "q4_0", "q4_1", "q5_0", "q5_1" or "q8_0" quantizes float32 per 32
            values along K, which K must be a multiple of.

    Returns:
        Packed: `.shape` (N, K), `.formats`, `.n_bytes`, and `.unpack()`, the float32 weights it stands for.

    Raises:
        TypeError, ValueError: an array of another type or shape, or values that are not finite.
    """
    floats("pack", "w", w, (np.float32, np.float16, np.uint16))
    if w.ndim != 2 or 0 in w.shape:
        raise ValueError(f"pack: w has shape {w.shape}, wanted (N, K), both above 0")
    given = _WEIGHTS[w.dtype.name]
    if format in ("f32", "f16", "bf16"):
        if format != given and format != "f32":
            raise ValueError(f"pack: format is {format!r}, w is {w.dtype.name}, which packs as {given!r}")
        data = np.ascontiguousarray(w).view(np.uint8).reshape(-1)
        return _packed(data, given, w.shape)
    if format not in _QUANTIZED:
        raise ValueError(f"pack: format is {format!r}, wanted f32, f16, bf16, {', '.join(_QUANTIZED)}")
    if w.dtype != np.float32:
        raise TypeError(f"pack: w is {w.dtype.name}, wanted float32 to be quantized")
    from lanner.ops._quantization import quantize

    return _packed(quantize(np.ascontiguousarray(w), format).reshape(-1), format, w.shape)


def _packed(data: npt.NDArray[np.uint8], format: str, shape: tuple[int, ...]) -> Packed:
    n, k = shape
    try:
        return _core.Packed([(data, format, n, k, 0)], n_threads=_core.array.get_threads())
    except _core.ModelFileError as error:
        raise ValueError(str(error)) from None


def matmul(
    x: Array, w: Array | Packed, *, bias: Array | None = None, out: Array | None = None
) -> npt.NDArray[np.float32]:
    """x @ w for an array w, x @ w.T for a packed one, in float32.

    Every output sums over K in one fixed order. So row i of the result has the same bits whatever the other
    rows, their number, the number of threads and alignment are.

    Args:
        x: float32 (..., K); strided input is copied.
        w: an array (K, N), float32, float16 or uint16 that holds bfloat16; or what `pack` made of (N, K). A
            quantized weight meets x rounded per 32 values: to 8 bits against 2- to 6-bit weights, to 16
            against 8-bit weights.
        bias: float32 (N,), added to every row.
        out: float32 (..., N), contiguous.

    Returns:
        float32 (..., N).

    Error, against float64: at most K * 2^-24 * sum_k |x_k w_k| for float weights (a chain of K fused
    multiply-adds), K/32 in the place of K for quantized weights, where the oracle is the product of the
    dequantized weights with x rounded likewise. NaN and infinities propagate as in IEEE arithmetic; with a
    quantized weight a block of 32 that holds one makes the whole row non-finite.

    Complexity: rows * K * N multiply-adds; rows up to the width of a register tile read the weight once.

    Raises:
        TypeError, ValueError: another type, shapes that do not meet, an `out` that does not fit.
    """
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
        bias = np.ascontiguousarray(bias)
    result = output("matmul", out, (*x.shape[:-1], n), np.float32)
    _refuse_overlap(result, x, w, bias)
    target = result if result.flags.c_contiguous else np.empty(result.shape, np.float32)
    _multiply(x, w, bias, target.reshape(-1, n) if target.size else target, k, n)
    if target is not result:
        result[...] = target
    return result


def _multiply(x: Array, w: Any, bias: Array | None, out: Array, k: int, n: int) -> None:
    n_rows = x.size // k if k else x.size
    if max(n_rows, k, n) > _LARGEST:
        raise ValueError(f"matmul: {n_rows} rows, {k} and {n} columns, wanted at most {_LARGEST} of each")
    if out.size == 0:
        return
    if k == 0:
        out[...] = 0.0 if bias is None else bias
    elif isinstance(w, _core.Packed):
        _core.array.matmul_packed(np.ascontiguousarray(x).reshape(-1, k), w, bias, out)
    else:
        rows = np.ascontiguousarray(x).reshape(-1, k)
        _core.array.matmul_array(rows, np.ascontiguousarray(w), _WEIGHTS[w.dtype.name], bias, out)


def _refuse_overlap(out: Array, *inputs: object) -> None:
    for x in inputs:
        if isinstance(x, np.ndarray) and np.may_share_memory(x, out):
            raise ValueError("matmul: out overlaps an input, whose values are read after out is written")
