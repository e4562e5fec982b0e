"""What the functions on arrays share: how arguments are checked, copied and handed to the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def floats(op: str, name: str, x: Any, dtypes: tuple[type, ...] = (np.float32,)) -> Array:
    """`x`, which must be an array of one of `dtypes`; TypeError naming what was given otherwise."""
    wanted = " or ".join(np.dtype(d).name for d in dtypes)
    if not isinstance(x, np.ndarray):
        raise TypeError(f"{op}: {name} is a {type(x).__name__}, wanted an array of {wanted}")
    if x.dtype not in dtypes:
        raise TypeError(f"{op}: {name} is {x.dtype.name}, wanted {wanted}")
    return x


def output(op: str, out: Array | None, shape: tuple[int, ...], dtype: Any, *inputs: Array) -> Array:
    """`out`, checked against what the operation writes, or a new array.

    It may be one of the inputs itself; a partial overlap is refused, since elements would be overwritten
    before they are read.
    """
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        given = out.dtype.name if isinstance(out, np.ndarray) else type(out).__name__
        raise TypeError(f"{op}: out is {given}, wanted an array of {np.dtype(dtype).name}")
    if out.shape != shape:
        raise ValueError(f"{op}: out has shape {out.shape}, wanted {shape}")
    if not out.flags.writeable:
        raise ValueError(f"{op}: out is read-only, wanted an array to write to")
    for x in inputs:
        if x is not out and np.may_share_memory(x, out) and not _is_same(x, out):
            raise ValueError(f"{op}: out overlaps an input without being it")
    return out


def _is_same(x: Array, y: Array) -> bool:
    return x.__array_interface__["data"] == y.__array_interface__["data"] and x.strides == y.strides


def rows_along(x: Array, axis: int) -> Array:
    """(rows, n) with `axis` of length n last, contiguous: a view where x is laid out so, else a copy."""
    moved = np.moveaxis(x, axis, -1)
    return np.ascontiguousarray(moved).reshape(-1, x.shape[axis]) if x.size else np.empty((0, 0), x.dtype)


def checked_axis(op: str, x: Array, axis: int) -> int:
    """`axis` counted from 0; ValueError where x has no such axis."""
    if x.ndim == 0:
        raise ValueError(f"{op}: x has no axes, wanted at least 1")
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise TypeError(f"{op}: axis is a {type(axis).__name__}, wanted an int")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"{op}: axis is {axis}, x has {x.ndim} axes")
    return int(axis) % x.ndim
