"""The same values in memory of another layout: strides, directions, gaps, alignment, broadcast axes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

WRITABLE = ("plain", "aligned", "offset", "bytes", "transposed", "stepped", "reversed", "sliced", "mixed")
READABLE = (*WRITABLE, "broadcast")
LINE = 64
"""Bytes of a cache line: offsets reach through a whole one."""


@dataclass(frozen=True)
class Placed:
    """A view and the bytes around it, all `filler` where they are none of its own."""

    array: np.ndarray
    memory: np.ndarray
    filler: int

    def has_kept_its_surroundings(self) -> bool:
        """Overwrites the view."""
        item = np.full(self.array.itemsize, self.filler, np.uint8).view(self.array.dtype)
        self.array[...] = item[0]
        return bool((self.memory == self.filler).all())


def place(x: np.ndarray, kind: str, rng: np.random.Generator, filler: int) -> Placed:
    """x in memory of a layout of WRITABLE or READABLE; the filler 0xff is NaN in every float type.

    plain and aligned start at a cache line, offset some elements behind one, bytes at any byte. stepped has
    gaps, reversed runs backwards along some axes, sliced is a part of a larger array, mixed all of that.
    broadcast has strides of 0 along the axes on which x does not change.
    """
    if kind == "broadcast":
        part = x
        for axis in range(x.ndim):
            first = part.take([0], axis) if part.shape[axis] else part
            if np.broadcast_to(first, part.shape).tobytes() == part.tobytes():
                part = first
        placed = place(part, "plain", rng, filler)
        return Placed(np.broadcast_to(placed.array, x.shape), placed.memory, filler)
    n, ones = x.ndim, np.ones(x.ndim, int)
    order = rng.permutation(n) if kind in ("transposed", "mixed") else np.arange(n)
    steps = {"stepped": rng.integers(1, 4, n), "reversed": rng.choice([-1, 1], n),
             "mixed": rng.choice([-2, -1, 1, 2, 3], n)}.get(kind, ones)  # fmt: skip
    before, after = rng.integers(0, 4, (2, n)) if kind in ("sliced", "mixed") else (0 * ones, 0 * ones)
    spans = [size * abs(int(step)) for size, step in zip(x.shape, steps, strict=True)]
    whole = [int(b) + span + int(a) for b, span, a in zip(before, spans, after, strict=True)]
    offset = {"offset": x.itemsize * int(rng.integers(1, LINE // x.itemsize)),
              "bytes": int(rng.integers(1, LINE))}.get(kind, 0)  # fmt: skip
    memory = np.full(prod(whole) * x.itemsize + 3 * LINE, filler, np.uint8)
    start = LINE - memory.__array_interface__["data"][0] % LINE + offset
    big = np.ndarray([whole[axis] for axis in order], x.dtype, memory.data, start)
    view = big.transpose(np.argsort(order))
    view = view[(..., *(slice(int(b), int(b) + span) for b, span in zip(before, spans, strict=True)))]
    view = view[(..., *(slice(None, None, int(step)) for step in steps))]
    view[...] = x
    return Placed(view, memory, filler)
