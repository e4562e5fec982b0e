"""What the functions on arrays share: how arguments are checked, copied and handed to the kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_OVERLAP_EFFORT: Any = 10_000  # NumPy's stubs know of 0 and -1 only
"""Steps that NumPy may spend on whether two strided arrays share an element, about 100 us; beyond them they
are taken to."""


# ---- arguments -----------------------------------------------------------------------------------


def floats(op: str, name: str, x: Any, dtypes: tuple[type, ...] = (np.float32,)) -> Array:
    """`x`, which must be an array of one of `dtypes`; TypeError naming what was given otherwise."""
    if type(x) is np.ndarray and x.dtype.type in dtypes and x.dtype.isnative:
        return x
    wanted = " or ".join(np.dtype(d).name for d in dtypes)
    if not isinstance(x, np.ndarray):
        raise TypeError(f"{op}: {name} is a {type(x).__name__}, wanted an array of {wanted}")
    _refuse_masked(op, name, x)
    if x.dtype not in dtypes:
        raise TypeError(f"{op}: {name} is {_name(x.dtype)}, wanted {wanted}")
    return x if type(x) is np.ndarray else x.view(np.ndarray)


def number(op: str, name: str, x: Any) -> float:
    """`x` as a float; TypeError unless it is a real number, and infinite where it is beyond float64."""
    if isinstance(x, (bool, np.bool_)) or not isinstance(x, (int, float, np.integer, np.floating)):
        raise TypeError(f"{op}: {name} is a {type(x).__name__}, wanted a number")
    try:
        return float(x)
    except OverflowError:
        return math.inf if x > 0 else -math.inf


def integer(op: str, name: str, x: Any) -> int:
    """`x` as an int; TypeError unless it is a whole number by its type."""
    if isinstance(x, (bool, np.bool_)) or not isinstance(x, (int, np.integer)):
        raise TypeError(f"{op}: {name} is a {type(x).__name__}, wanted an int")
    return int(x)


def checked_axis(op: str, x: Array, axis: int) -> int:
    """`axis` counted from 0; ValueError where x has no such axis."""
    if x.ndim == 0:
        raise ValueError(f"{op}: x has no axes, wanted at least 1")
    axis = integer(op, "axis", axis)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"{op}: axis is {axis}, x has {x.ndim} axes")
    return axis % x.ndim


def is_cuda(op: str, device: Any) -> bool:
    """Whether `device` is the GPU; ValueError where it is no device."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"{op}: device is {device!r:.80}, wanted 'cpu' or 'cuda'")
    return bool(device == "cuda")


# ---- results -------------------------------------------------------------------------------------


def output(
    op: str,
    out: Array | None,
    shape: tuple[int, ...],
    dtype: Any,
    may_be: Mapping[str, Array],
    apart: Mapping[str, Array | None] | None = None,
    name: str = "out",
) -> Array:
    """`out`, checked against what the operation writes, or a new array.

    It may be one of the inputs `may_be`, element for element; otherwise no element of it may be one of
    theirs, as it would be overwritten before it is read. It may share none with the inputs `apart`.
    """
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        given = _name(out.dtype) if isinstance(out, np.ndarray) else type(out).__name__
        raise TypeError(f"{op}: {name} is {given}, wanted an array of {np.dtype(dtype).name}")
    _refuse_masked(op, name, out)
    if out.shape != shape:
        raise ValueError(f"{op}: {name} has shape {out.shape}, wanted {shape}")
    if not out.flags.writeable:
        raise ValueError(f"{op}: {name} is read-only, wanted an array to write to")
    for other, x in may_be.items():
        if _share(x, out) and not _is_same(x, out):
            raise ValueError(f"{op}: {name} overlaps {other} without being it")
    for other, y in (apart or {}).items():
        if y is not None and _share(y, out):
            raise ValueError(f"{op}: {name} overlaps {other}, which is read while {name} is written")
    return out


def _name(dtype: np.dtype[Any]) -> str:
    return str(dtype.name) + ("" if dtype.isnative else " of the other byte order")


def _refuse_masked(op: str, name: str, x: Array) -> None:
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{op}: {name} is a MaskedArray, whose mask would be lost, wanted an array")


def _share(x: Array, y: Array) -> bool:
    return np.may_share_memory(x, y, max_work=_OVERLAP_EFFORT)


def _is_same(x: Array, y: Array) -> bool:
    """Whether equal indices mean the same memory."""

    def steps(a: Array) -> list[int]:
        return [step for step, n in zip(a.strides, a.shape, strict=True) if n > 1]

    same_place = x.__array_interface__["data"] == y.__array_interface__["data"]
    return same_place and x.dtype == y.dtype and x.shape == y.shape and steps(x) == steps(y)


# ---- layout --------------------------------------------------------------------------------------


def contiguous(x: Array) -> Array:
    """x, or a copy of it where its elements do not follow each other or are not aligned."""
    return x if _is_plain(x) else np.require(x, requirements=("C", "A"))


def _is_plain(x: Array) -> bool:
    flags = x.flags
    return flags.c_contiguous and flags.aligned


def _axis_last(x: Array, axis: int) -> Array:
    return x if axis in (-1, x.ndim - 1) else np.moveaxis(x, axis, -1)


def as_rows(x: Array, axis: int = -1) -> Array:
    """(rows, n) of a nonempty x with `axis` last: a view where it is laid out so, else a copy."""
    return contiguous(_axis_last(x, axis)).reshape(-1, x.shape[axis])


def fill(out: Array, compute: Callable[[Array], object]) -> Array:
    """Has compute write a contiguous, aligned array that becomes out: out itself where it is so."""
    if _is_plain(out):
        compute(out)
    else:
        made = np.empty(out.shape, out.dtype)
        compute(made)
        out[...] = made
    return out


def fill_rows(out: Array, axis: int, compute: Callable[[Array], object]) -> Array:
    """Has compute write the rows (rows, n) of a nonempty out along `axis`."""
    fill(_axis_last(out, axis), lambda rows: compute(rows.reshape(-1, rows.shape[-1])))
    return out
