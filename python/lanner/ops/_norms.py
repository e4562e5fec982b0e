"""Normalization over the last axis."""

from __future__ import annotations

import numpy as np

from lanner import _core
from lanner.ops._arrays import Array, as_rows, contiguous, fill_rows, floats, is_cuda, number, output

_LARGEST = float(np.finfo(np.float32).max)


def rms_norm(
    x: Array,
    weight: Array | None = None,
    *,
    eps: float = 1e-6,
    out: Array | None = None,
    device: str = "cpu",
) -> Array:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang and Sennrich, arXiv:1910.07467).

    Error: within 2^-24 (n/32 + 10) of each result, relative, plus 2^-149 (1 + |weight|), against exact
    arithmetic on the same inputs with eps rounded to float32: n/16 roundings in each of 16 lanes and 6 to
    join them, halved by the root, then 7 more.

    Special values: a row with NaN is NaN throughout; an infinity is NaN itself and makes the rest of its row
    0. Rows whose squares leave the range of float32 are computed in float64, so no finite row overflows
    before its result does, and denormals are numbers like others. A row of zeros is NaN where eps is 0, and
    0 otherwise.

    Reproducible: the bits of a row depend on the row, weight, eps and the instruction set alone, not on the
    other rows, their number, the number of threads or alignment.

    Args:
        x: float32 (..., n), at least one axis; an array that is strided or not aligned is copied.
        weight: float32 (n,), or None for 1; nothing else is broadcast.
        eps: what is added to the mean square; finite, not negative, and in the units of x squared.
        out: float32 of x's shape, or x itself; any strides.
        device: "cpu", or "cuda", for tests of its kernel: x is copied to the GPU and back, and rounded to
            bfloat16 both ways; n is a multiple of 8 there.

    Returns:
        float32 of x's shape; `out` if given. Empty for an empty x.

    Raises:
        TypeError: an array is not float32, or eps not a number.
        ValueError: a shape does not fit, eps is out of range, or out overlaps an input.

    Complexity: O(size); each row is read twice, the second time from cache. Any thread may call; the GIL is
    released.
    """
    return _norm("rms_norm", x, weight, None, eps, out, device)


def layer_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    eps: float = 1e-5,
    out: Array | None = None,
) -> Array:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis (Ba et al., arXiv:1607.06450).

    The variance is that of the population: squares are divided by n.

    Error: with z the exact normalized value before weight and bias, within
    2^-24 ((64 + 26 |z|) |weight| + |bias|) + 2^-148 of exact arithmetic on the same inputs with eps rounded
    to float32. Sums are taken in blocks of 256 and joined in float64, so the bound does not grow
    with n; a row whose mean is too large beside its deviation for float32 is computed in float64.

    Special values: a row with NaN or an infinity is NaN throughout. No finite row overflows before its result
    does, and denormals are numbers like others. A constant row is `bias`, or NaN where eps is 0.

    Reproducible: the bits of a row depend on the row, weight, bias, eps and the instruction set alone, not on
    the other rows, their number, the number of threads or alignment.

    Args:
        x: float32 (..., n), at least one axis; an array that is strided or not aligned is copied.
        weight: float32 (n,), or None for 1; nothing else is broadcast.
        bias: float32 (n,), or None for 0.
        eps: what is added to the variance; finite, not negative, and in the units of x squared.
        out: float32 of x's shape, or x itself; any strides.

    Returns:
        float32 of x's shape; `out` if given. Empty for an empty x.

    Raises:
        TypeError: an array is not float32, or eps not a number.
        ValueError: a shape does not fit, eps is out of range, or out overlaps an input.

    Complexity: O(size); each row is read four times, all but the first from cache. Any thread may call; the
    GIL is released.
    """
    return _norm("layer_norm", x, weight, bias, eps, out)


def _norm(
    op: str,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    out: Array | None,
    device: str = "cpu",
) -> Array:
    on_gpu = is_cuda(op, device)
    x = floats(op, "x", x)
    if x.ndim == 0:
        raise ValueError(f"{op}: x has no axes, wanted at least 1")
    n = x.shape[-1]
    vectors = {name: _vector(op, name, v, n) for name, v in (("weight", weight), ("bias", bias))}
    eps = number(op, "eps", eps)
    if not 0 <= eps <= _LARGEST:
        raise ValueError(f"{op}: eps is {eps}, wanted a finite number that is not negative")
    out = output(op, out, x.shape, np.float32, {"x": x}, vectors)
    if x.size == 0:
        return out
    rows, kernel = as_rows(x), getattr(_core.array, op)
    if on_gpu:
        from lanner.cuda import array_ops

        made = array_ops.rms_norm(rows, weight, eps)
        return fill_rows(out, -1, lambda to: np.copyto(to, made))
    near = [None if v is None else contiguous(v) for v in vectors.values()]
    return fill_rows(out, -1, lambda to: kernel(rows, to, *near, eps))


def _vector(op: str, name: str, v: Array | None, n: int) -> Array | None:
    if v is None:
        return None
    v = floats(op, name, v)
    if v.ndim != 1:
        raise ValueError(f"{op}: {name} has {v.ndim} axes, wanted 1")
    if len(v) != n:
        raise ValueError(f"{op}: {name} has {len(v)} elements, x has {n} columns")
    return v
