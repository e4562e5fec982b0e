"""The memories of a GPU as arrays of bytes: every access is aligned and in bounds, or an error."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

Array = Any


class Bytes:
    """Positions in an array of bytes, read and written `vec` elements at a time, aligned to all of them."""

    def __init__(self, data: Array) -> None:
        self.data = data
        self.views: dict[tuple[Any, int], Array] = {}

    def view(self, dtype: Any, vec: int) -> tuple[Array, int]:
        n_bytes = np.dtype(dtype).itemsize * vec
        if (dtype, vec) not in self.views:
            whole = self.data[: len(self.data) // n_bytes * n_bytes].view(dtype)
            self.views[dtype, vec] = whole.reshape(-1, vec) if vec > 1 else whole
        return self.views[dtype, vec], n_bytes

    def gather(self, positions: Array, dtype: Any, vec: int = 1) -> Array:
        """(n,), or (n, vec)."""
        view, n_bytes = self.view(dtype, vec)
        return view[positions // n_bytes]

    def scatter(self, positions: Array, values: Array) -> None:
        view, n_bytes = self.view(values.dtype.type, values.shape[1] if values.ndim > 1 else 1)
        view[positions // n_bytes] = values


class GlobalMemory:
    """The host's memory from the first allocation to the last; only the allocations may be touched."""

    def __init__(self, allocations: list[tuple[int, int]]) -> None:
        spans = sorted((a, n) for a, n in allocations if n)
        self.starts = np.array([a for a, _ in spans], np.int64)
        self.ends = np.array([a + n for a, n in spans], np.int64)
        self.base = spans[0][0] // 256 * 256 if spans else 0
        span = int(self.ends[-1]) - self.base if spans else 0
        raw = (ctypes.c_uint8 * span).from_address(self.base) if spans else (ctypes.c_uint8 * 0)()
        self.bytes = Bytes(np.frombuffer(raw, np.uint8))

    def outside(self, addresses: Array, n_bytes: int) -> Array | None:
        """Numbers of the accesses that leave the allocations, None if none does."""
        if not len(addresses):
            return None
        low, high = int(addresses.min()), int(addresses.max())
        i = int(np.searchsorted(self.starts, low, "right")) - 1
        if i >= 0 and high + n_bytes <= self.ends[i]:
            return None
        which = np.searchsorted(self.starts, addresses, "right") - 1
        good = (which >= 0) & (addresses + n_bytes <= self.ends[which])
        return None if good.all() else np.flatnonzero(~good)

    def gather(self, addresses: Array, dtype: Any, vec: int = 1) -> Array:
        return self.bytes.gather(addresses - self.base, dtype, vec)

    def scatter(self, addresses: Array, values: Array) -> None:
        self.bytes.scatter(addresses - self.base, values)


class SharedMemory:
    """Of all blocks of the batch, one behind the other. At first 0xff; what is read was written before."""

    def __init__(self, n_blocks: int, n_bytes: int, block: Array) -> None:
        self.n_bytes = n_bytes
        stride = -(-n_bytes // 1024) * 1024
        self.origin = block * stride  # of each lane
        self.bytes = Bytes(np.full(n_blocks * stride, 0xFF, np.uint8))
        self.written = Bytes(np.zeros(n_blocks * stride, np.uint8))
        self.ones = {size: np.array(-1, f"i{size}").view(f"u{size}")[()] for size in (1, 2, 4, 8)}

    def outside(self, offsets: Array, n_bytes: int) -> Array | None:
        if not len(offsets) or (int(offsets.max()) + n_bytes <= self.n_bytes and int(offsets.min()) >= 0):
            return None
        return np.flatnonzero((offsets < 0) | (offsets + n_bytes > self.n_bytes))

    def unwritten(self, positions: Array, dtype: Any, vec: int) -> Array | None:
        size = np.dtype(dtype).itemsize
        marks = self.written.gather(positions, f"u{size}", vec) == self.ones[size]
        return None if marks.all() else np.flatnonzero(~marks.reshape(len(positions), -1).all(axis=1))

    def mark(self, positions: Array, dtype: Any, vec: int, written: bool) -> None:
        size = np.dtype(dtype).itemsize
        view, n_bytes = self.written.view(f"u{size}", vec)
        view[positions // n_bytes] = self.ones[size] if written else 0


class PrivateMemory:
    """Local memory: each lane its own."""

    def __init__(self, n: int, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        stride = -(-n_bytes // 16) * 16
        self.origin = np.arange(n) * stride
        self.bytes = Bytes(np.full(n * stride, 0xFF, np.uint8))

    def outside(self, offsets: Array, n_bytes: int) -> Array | None:
        bad = (offsets < 0) | (offsets + n_bytes > self.n_bytes)
        return np.flatnonzero(bad) if bad.any() else None
