"""Softmax and its kin along one axis, and the largest elements."""

from __future__ import annotations

from typing import Any

import numpy as np

from lanner import _core
from lanner.ops._arrays import Array, as_rows, checked_axis, fill, fill_rows, floats, integer, is_cuda, output


def softmax(x: Array, axis: int = -1, out: Array | None = None, *, device: str = "cpu") -> Array:
    """exp(x) divided by its sum along an axis.

    Error: within 2^-24 (2.5 (max - x) + 2.5 ln n + 80) of each weight, plus 1.7e-38, against exact arithmetic
    on the same float32 inputs; max - x counts up to 87: weights below e^-87 of the largest may be 0. The
    shift and its product with log2 e are rounded in proportion to max - x, whose mean under the result is at
    most ln n; 80 counts the roundings of the exponential (4), of the sum of a chunk in its 64 steps and its
    reduction (70), of the factor and of its product.

    Special values: -inf weighs exactly 0. A row with NaN or +inf, and a row of -inf alone, is NaN throughout.
    Finite inputs of any size give finite results, and denormals are numbers like others.

    Reproducible: a row is added up in chunks of 4096 that are merged in order, whatever the other rows, the
    number of threads and the alignment; the bits depend on the row and the instruction set alone.

    Args:
        x: float32, any shape with at least one axis; an array that is strided or not aligned, and another
            axis than the last, is copied.
        axis: the axis that sums to 1.
        out: float32 of x's shape, or x itself; any strides.
        device: "cpu", or "cuda", for tests of its kernel: rows are copied to the GPU and back.

    Returns:
        float32 of x's shape; `out` if given. Empty for an empty x.

    Raises:
        TypeError: x or out is not a float32 array, or axis not an int.
        ValueError: x has no such axis, or out another shape, or a part of it is a part of x.

    Complexity: O(size). Reads x once from memory and writes once while a row stays in cache (2^16 elements);
    longer rows are read twice. Any thread may call; the GIL is released.

    Two passes with one reduction per chunk: Milakov and Gimelshein, Online normalizer calculation for
    softmax, arXiv:1805.02867.
    """
    return _softmax("softmax", x, axis, out, logarithm=False, on_gpu=is_cuda("softmax", device))


def log_softmax(x: Array, axis: int = -1, out: Array | None = None) -> Array:
    """x - log(sum(exp(x))) along an axis; no weight is too small for its logarithm.

    Error: within 2^-24 (2 |y| + 2.5 ln n + 80) of each result y, against exact arithmetic on the same float32
    inputs: two subtractions, and the sum as in `softmax`. A result below the range of float32 is -inf.

    Special values: -inf stays -inf. A row with NaN or +inf, and a row of -inf alone, is NaN throughout.
    Denormals are numbers like others.

    Args:
        x: float32, any shape with at least one axis; an array that is strided or not aligned, and another
            axis than the last, is copied.
        axis: the axis whose exponentials sum to 1.
        out: float32 of x's shape, or x itself; any strides.

    Returns:
        float32 of x's shape; `out` if given. Empty for an empty x.

    Raises:
        TypeError: x or out is not a float32 array, or axis not an int.
        ValueError: x has no such axis, or out another shape, or a part of it is a part of x.

    Reproducible as `softmax` is. Complexity: O(size); x is read twice. Any thread may call; the GIL is
    released.
    """
    return _softmax("log_softmax", x, axis, out, logarithm=True)


def logsumexp(x: Array, axis: int = -1, keepdims: bool = False, out: Array | None = None) -> Array:
    """log(sum(exp(x))) along an axis, without overflow: max + log(sum(exp(x - max))).

    Error: within 2^-24 (|y| + 2.5 ln n + 80) of the result y, against exact arithmetic on the same float32
    inputs; the sum is that of `softmax`.

    Special values: NaN where the row holds one, else +inf where it holds one; -inf for a row of -inf alone
    and for a row without elements (the logarithm of an empty sum). Denormals are numbers like others.

    Args:
        x: float32, any shape with at least one axis; an array that is strided or not aligned, and another
            axis than the last, is copied.
        axis: the axis that is summed.
        keepdims: leave it in the result with length 1.
        out: float32 of the result's shape, any strides, no part of x.

    Returns:
        float32 of x's shape without `axis` (no axes for a vector); `out` if given.

    Raises:
        TypeError: x or out is not a float32 array, or axis not an int.
        ValueError: x has no such axis, out has another shape or overlaps x.

    Reproducible as `softmax` is. Complexity: O(size); reads x once. Any thread may call; the GIL is released.
    """
    x = floats("logsumexp", "x", x)
    axis = checked_axis("logsumexp", x, axis)
    shape = x.shape[:axis] + (1,) * bool(keepdims) + x.shape[axis + 1 :]
    out = output("logsumexp", out, shape, np.float32, {}, {"x": x})
    if x.size == 0:
        out[...] = -np.inf
        return out
    rows = as_rows(x, axis)
    return fill(out, lambda to: _core.array.logsumexp(rows, to.reshape(-1)))


def topk(x: Array, k: int, axis: int = -1, out: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
    """The k largest elements along an axis, in descending order, and where they are.

    Of equal elements the one with the lowest index comes first; -0.0 equals 0.0. NaN is above everything,
    as in a sort, so that it cannot hide. Exact: values are copied, never computed.

    Args:
        x: float32, any shape with at least one axis; an array that is strided or not aligned, and another
            axis than the last, is copied.
        k: how many, 0 to the length of the axis.
        axis: the axis to search.
        out: (values, ids), float32 and int64 of the result's shape, any strides, no part of x.

    Returns:
        (values, ids), float32 and int64 of x's shape with length k along `axis`; `out` if given.

    Raises:
        TypeError: x is not a float32 array, k or axis not an int, or out not a pair of such arrays.
        ValueError: x has no such axis, it is longer than 2^31 - 1, k is out of range, or an array of out has
            another shape or overlaps.

    Reproducible: the one right answer, on every instruction set and number of threads.

    Complexity: O(n + k log k) expected: candidates are collected in a buffer of 2k + 256 and thinned by
    quickselect (Hoare, Algorithm 65: Find, 1961); 16 elements that cannot qualify cost one comparison. Any
    thread may call; the GIL is released.
    """
    x = floats("topk", "x", x)
    axis, k = checked_axis("topk", x, axis), integer("topk", "k", k)
    n = x.shape[axis]
    if not 0 <= k <= n:
        raise ValueError(f"topk: k is {k}, axis {axis} of x has {n} elements")
    if n > np.iinfo(np.int32).max:
        raise ValueError(f"topk: axis {axis} of x has {n} elements, wanted at most 2^31 - 1")
    values, ids = out = _topk_output(x, k, axis, out)
    if values.size:
        rows = as_rows(x, axis)

        def compute(to: Array) -> None:
            fill_rows(ids, axis, lambda to_ids: _core.array.top_k(rows, k, to, to_ids))

        fill_rows(values, axis, compute)
    return out


def _topk_output(x: Array, k: int, axis: int, out: Any) -> tuple[Array, Array]:
    if out is None:  # laid out as the kernel writes, which finds the axis last
        shape = (*x.shape[:axis], *x.shape[axis + 1 :], k)
        made = np.empty(shape, np.float32), np.empty(shape, np.int64)
        return np.moveaxis(made[0], -1, axis), np.moveaxis(made[1], -1, axis)
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(f"topk: out is a {type(out).__name__}, wanted a tuple (values, ids)")
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    values = output("topk", out[0], shape, np.float32, {}, {"x": x}, "out[0]")
    return values, output("topk", out[1], shape, np.int64, {}, {"x": x, "out[0]": values}, "out[1]")


def _softmax(
    op: str, x: Array, axis: int, out: Array | None, *, logarithm: bool, on_gpu: bool = False
) -> Array:
    x = floats(op, "x", x)
    axis = checked_axis(op, x, axis)
    out = output(op, out, x.shape, np.float32, {"x": x})
    if x.size == 0:
        return out
    rows = as_rows(x, axis)
    if on_gpu:
        from lanner.cuda import array_ops

        made = array_ops.softmax(rows, logarithm=logarithm)
        return fill_rows(out, axis, lambda to: np.copyto(to, made))
    return fill_rows(out, axis, lambda to: _core.array.softmax(rows, to, logarithm))
