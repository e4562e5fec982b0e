"""Softmax and its kin along one axis, and the largest elements."""

from __future__ import annotations

import numpy as np

from lanner import _core
from lanner.ops._arrays import Array, checked_axis, floats, output
from lanner.ops._layout import as_rows, fill_rows


def softmax(x: Array, axis: int = -1, out: Array | None = None) -> Array:
    """exp(x) divided by its sum along an axis.

    Error: within 2^-24 (2.5 (max - x) + 2.5 ln n + 80) of each weight, plus 1.7e-38, against exact arithmetic
    on the same float32 inputs; max - x counts up to 87: weights below e^-87 of the largest may be 0. The
    shift and its product with log2 e are rounded in proportion to max - x, whose mean under the result is at
    most ln n; 80 counts the roundings of the exponential (4), of the sum of a chunk in its 64 steps and its
    reduction (70), of the factor and of its product.

    Special values: -inf weighs exactly 0. A row with NaN or +inf, and a row of -inf alone, is NaN throughout.
    Finite inputs of any size give finite results.

    Reproducible: a row is added up in chunks of 4096 that are merged in order, whatever the other rows, the
    number of threads and the alignment; the bits depend on the row and the instruction set alone.

    Args:
        x: float32, any shape with at least one axis; strided arrays and other axes than the last are copied.
        axis: the axis that sums to 1.
        out: float32 of x's shape, or x itself; any strides.

    Returns:
        float32 of x's shape; `out` if given. Empty for an empty x.

    Raises:
        TypeError: x or out is not a float32 array, or axis not an int.
        ValueError: x has no such axis, or out another shape, or a part of it is a part of x.

    Complexity: O(size). Reads x once from memory and writes once while a row stays in cache (2^16 elements);
    longer rows are read twice.

    Two passes with one reduction per chunk: Milakov and Gimelshein, Online normalizer calculation for
    softmax, arXiv:1805.02867.
    """
    return _softmax("softmax", x, axis, out, logarithm=False)


def log_softmax(x: Array, axis: int = -1, out: Array | None = None) -> Array:
    """x - log(sum(exp(x))) along an axis; no weight is too small for its logarithm.

    Error: within 2^-24 (2 |y| + 2.5 ln n + 80) of each result y, against exact arithmetic.

    Special values: -inf stays -inf. A row with NaN or +inf, and a row of -inf alone, is NaN throughout.

    Arguments, errors and reproducibility are those of `softmax`; x is read twice.
    """
    return _softmax("log_softmax", x, axis, out, logarithm=True)


def logsumexp(x: Array, axis: int = -1, keepdims: bool = False) -> Array:
    """log(sum(exp(x))) along an axis, without overflow.

    Error: within 2^-24 (|y| + 2.5 ln n + 80) of the result y, against exact arithmetic.

    Special values: NaN where the row holds one, else +inf where it holds one; -inf for a row of -inf alone
    and for a row without elements (the logarithm of an empty sum).

    Args:
        x: float32, any shape with at least one axis; strided arrays and other axes than the last are copied.
        axis: the axis that is summed.
        keepdims: leave it in the result with length 1.

    Returns:
        float32 of x's shape without `axis`.

    Raises:
        TypeError: x is not a float32 array, or axis not an int.
        ValueError: x has no such axis.

    Reproducible as `softmax` is. Complexity: O(size); reads x once.
    """
    axis = checked_axis("logsumexp", floats("logsumexp", "x", x), axis)
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    result = np.full(shape, -np.inf, np.float32)
    if x.size:
        _core.array.logsumexp(as_rows(x, axis), result.reshape(-1))
    return np.expand_dims(result, axis) if keepdims else result


def topk(x: Array, k: int, axis: int = -1) -> tuple[Array, Array]:
    """The k largest elements along an axis, in descending order, and where they are.

    Of equal elements the one with the lowest index comes first; -0.0 equals 0.0. NaN is above everything,
    as in a sort, so that it cannot hide. Values are copied, never computed.

    Args:
        x: float32, any shape with at least one axis; strided arrays and other axes than the last are copied.
        k: how many, 0 to the length of the axis.
        axis: the axis to search.

    Returns:
        (values, ids), float32 and int64 of x's shape with length k along `axis`.

    Raises:
        TypeError: x is not a float32 array, or k or axis not an int.
        ValueError: x has no such axis, it is longer than 2^31 - 1, or k is out of range.

    Complexity: O(n + k log k) expected: candidates are collected in a buffer of 2k + 256 and thinned by
    quickselect (Hoare, Algorithm 65: Find, 1961); 16 elements that cannot qualify cost one comparison.
    """
    axis = checked_axis("topk", floats("topk", "x", x), axis)
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
        raise TypeError(f"topk: k is a {type(k).__name__}, wanted an int")
    n = x.shape[axis]
    if not 0 <= k <= n:
        raise ValueError(f"topk: k is {k}, axis {axis} of x has {n} elements")
    if n > np.iinfo(np.int32).max:
        raise ValueError(f"topk: axis {axis} of x has {n} elements, wanted at most 2^31 - 1")
    others = x.shape[:axis] + x.shape[axis + 1 :]
    values = np.empty((*others, int(k)), np.float32)
    ids = np.empty((*others, int(k)), np.int64)
    if values.size:
        _core.array.top_k(as_rows(x, axis), int(k), values.reshape(-1, int(k)), ids.reshape(-1, int(k)))
    return np.moveaxis(values, -1, axis), np.moveaxis(ids, -1, axis)


def _softmax(op: str, x: Array, axis: int, out: Array | None, *, logarithm: bool) -> Array:
    axis = checked_axis(op, floats(op, "x", x), axis)
    out = output(op, out, x.shape, np.float32, x)
    if x.size:
        rows = as_rows(x, axis)
        fill_rows(out, axis, lambda to: _core.array.softmax(rows, to, logarithm))
    return out
