"""Weights between float32 and the blocks of GGUF files."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from lanner import _core
from lanner.ops._arrays import Array, contiguous, fill, floats, output

FORMATS: dict[str, tuple[int, int]] = _core.array.FORMATS
"""Block of each format: its values and its bytes."""

QUANTIZABLE = ("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
"""Formats that `quantize` makes. The others choose codes by a search over weights of importance."""


def checked_format(op: str, format: Any, among: Sequence[str] = tuple(FORMATS)) -> str:
    """`format`, one of `among`; TypeError or ValueError with the nearest name otherwise."""
    if not isinstance(format, str):
        raise TypeError(f"{op}: format is a {type(format).__name__}, wanted a str such as {among[-1]!r}")
    if format in among:
        return format
    if format in FORMATS:
        raise ValueError(f"{op}: format {format!r} can be read, not made; wanted one of {', '.join(among)}")
    from difflib import get_close_matches

    near = get_close_matches(format.lower(), among, 1, 0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"wanted one of {', '.join(among)}"
    raise ValueError(f"{op}: format is {format!r}; {hint}")


def quantize(x: Array, format: str, *, out: Array | None = None) -> Array:
    """Rows of float32 as the blocks of a GGUF format.

    A block of 32 neighbouring values along the last axis shares a float16 scale d (and a minimum m):

    - ``q4_0``, ``q5_0``: d = the value of largest magnitude / -8 (-16); code = trunc(x/d + 8.5 (16.5)).
    - ``q4_1``, ``q5_1``: d = (max - min) / 15 (31), m = min; code = trunc((x - m)/d + 0.5).
    - ``q8_0``: d = max|x| / 127; code = round(x/d), halves away from zero.
    - ``f32``, ``f16``, ``bf16``: to nearest, ties to even; infinities and NaN stay what they are.

    Codes are computed with d before it is rounded to float16. The bytes equal those of the `gguf` package;
    only the sign of a minimum of zero may differ where a block holds both zeros.

    Args:
        x: (..., k) float32, at least one axis; k a multiple of the block. An array that is strided or not
            aligned is copied.
        format: one of `QUANTIZABLE`.
        out: (..., row_bytes) uint8 to write to, any strides, not overlapping x.

    Returns:
        (..., k / block * bytes of a block) uint8. A size of zero gives a size of zero.

    Error against x, by block, for scales that are normal float16 numbers (u = 2^-11): half a step, or a whole
    one at the end of q4_0 and q5_0 that has no code, plus the rounding of the scale:
    |dequantize(quantize(x)) - x| <= d + 4 u max|x|.

    Special values: coded formats refuse infinities and NaN. Denormals are numbers like others, but a block
    whose scale is below half the least float16 (2^-25) becomes zeros (or its minimum, likewise rounded).

    Complexity: O(size), one pass over x; any thread may call, the GIL is released.

    Reproducible: the bytes do not depend on the other rows, the number of threads, alignment or the
    instruction set.

    Raises:
        TypeError: x is not a float32 array, out is not uint8.
        ValueError: an unknown format, a k that is not a multiple of the block, x 0-dimensional, a wrong shape
            of out, or a quantized block with an infinite or NaN value, or with a scale beyond float16.
    """
    x = floats("quantize", "x", x)
    format = checked_format("quantize", format, QUANTIZABLE)
    k, (block, n_bytes) = _last("quantize", "x", x), FORMATS[format]
    if k % block:
        raise ValueError(f"quantize: x has {k} columns, wanted a multiple of {block} for {format}")
    shape = (*x.shape[:-1], k // block * n_bytes)
    out = output("quantize", out, shape, np.uint8, {}, {"x": x})

    def compute(to: Array) -> None:
        if not _core.array.quantize(contiguous(x), format, to):
            raise ValueError(
                f"quantize: x holds infinite or NaN values, or values beyond the scales of {format}"
            )

    return fill(out, compute)


def dequantize(
    data: Array, format: str, *, shape: Sequence[int] | None = None, out: Array | None = None
) -> Array:
    """The float32 values of rows of blocks, bit for bit those of the `gguf` package.

    Every format of a GGUF file that this library reads: floats, q4_0 to q8_0, the K-quants (two levels of
    scales: an integer per 16 or 32 values times a float16 per 256), iq4_nl and iq4_xs (a codebook of 16
    values), mxfp4 (E2M1 values with an E8M0 scale per 32, OCP Microscaling Formats 1.0).

    Args:
        data: (..., row_bytes) uint8, at least one axis unless `shape` is given; any strides (copied where it
            is not contiguous).
        format: the name of a format, as `FORMATS` spells it.
        shape: of the result, where data is a flat run of bytes such as a tensor of a file; without it, rows
            of data become rows of values. Its last axis is a multiple of the block.
        out: float32 array of the result's shape to write to, any strides, not overlapping data.

    Returns:
        (..., row_bytes / bytes of a block * block) float32, or `shape`. Zero-size arrays give such.

    Error: none; no rounding beyond those with which the formats define their values (a product and a sum in
    float32).

    Special values: a scale that is infinite or NaN gives infinities and NaN; denormals are kept.

    Reproducible: the result does not depend on the other rows, the number of threads, alignment or the
    instruction set.

    Complexity: O(size), one pass over data; any thread may call, the GIL is released.

    Raises:
        TypeError: data is not a uint8 array, out is not float32, shape is no sequence of ints.
        ValueError: an unknown format (with the nearest name), rows that are not whole blocks, a shape that
            data does not fill, a wrong shape of out.
    """
    data = floats("dequantize", "data", data, (np.uint8,))
    format = checked_format("dequantize", format)
    result = _values_shape(data, format) if shape is None else _checked_shape(data, format, shape)
    out = output("dequantize", out, result, np.float32, {}, {"data": data})
    return fill(out, lambda to: _core.array.dequantize(contiguous(data), format, to))


def _last(op: str, name: str, x: Array) -> int:
    if x.ndim == 0:
        raise ValueError(f"{op}: {name} has no axes, wanted at least 1")
    return int(x.shape[-1])


def _values_shape(data: Array, format: str) -> tuple[int, ...]:
    row_bytes, (block, n_bytes) = _last("dequantize", "data", data), FORMATS[format]
    if row_bytes % n_bytes:
        raise ValueError(
            f"dequantize: data has rows of {row_bytes} bytes, wanted a multiple of {n_bytes} for {format}"
        )
    return (*data.shape[:-1], row_bytes // n_bytes * block)


def _checked_shape(data: Array, format: str, shape: Sequence[int]) -> tuple[int, ...]:
    from math import prod

    block, n_bytes = FORMATS[format]
    wanted = tuple(operator.index(n) for n in shape)
    if not wanted or min(wanted) < 0 or wanted[-1] % block:
        raise ValueError(f"dequantize: shape is {wanted}, wanted a last axis that is a multiple of {block}")
    if prod(wanted) // block * n_bytes != data.size:
        raise ValueError(
            f"dequantize: data has {data.size} bytes, {format} of shape {wanted} has "
            f"{prod(wanted) // block * n_bytes}"
        )
    return wanted
