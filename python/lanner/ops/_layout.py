"""Arrays as the contiguous rows that row kernels want."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lanner.ops._arrays import Array


def contiguous(x: Array) -> Array:
    """x, or a copy of it where its elements do not follow each other or are not aligned."""
    return np.require(x, requirements=("C", "A"))


def as_rows(x: Array, axis: int = -1) -> Array:
    """(rows, n) of a nonempty x with `axis` last: a view where it is laid out so, else a copy."""
    return contiguous(np.moveaxis(x, axis, -1)).reshape(-1, x.shape[axis])


def fill_rows(out: Array, axis: int, compute: Callable[[Array], object]) -> Array:
    """Has compute write the rows of out along `axis`, through a copy where out is not laid out so."""
    moved = np.moveaxis(out, axis, -1)
    rows = as_rows(out, axis)
    compute(rows)
    if not np.may_share_memory(rows, out):
        moved[...] = rows.reshape(moved.shape)
    return out
