"""Values in device memory: what tests hand to kernels and read back."""

from __future__ import annotations

from typing import Any

import numpy as np

U_BF16 = 2.0**-8
"""Unit roundoff of bf16: 8 bits of significand."""


def to_bf16(x: np.ndarray) -> np.ndarray:
    """uint16: the upper halves of float32, rounded to nearest, ties to even. NaN stays NaN."""
    x = np.ascontiguousarray(x, np.float32)
    bits = x.view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), rounded)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def as_bf16(x: np.ndarray) -> np.ndarray:
    """float32 values that bf16 has."""
    return from_bf16(to_bf16(x))


class Value:
    """An array in device memory, "bf16", "float32" or "int32"; without data it is not yet written."""

    def __init__(self, cuda: Any, shape: tuple[int, ...], kind: str, data: np.ndarray | None = None) -> None:
        self.shape, self.kind = shape, kind
        self.dtype = np.dtype({"bf16": "uint16"}.get(kind, kind))
        n_bytes = int(np.prod(shape)) * self.dtype.itemsize
        self.array = cuda.DeviceArray(max(n_bytes, 16))
        if data is None:
            cuda.emulator.mark_unwritten(self.array.address, n_bytes)
        else:
            self.array.upload(to_bf16(data) if kind == "bf16" else np.ascontiguousarray(data, self.dtype))

    def numpy(self) -> np.ndarray:
        n_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        raw = np.frombuffer(self.array.download(0, n_bytes), self.dtype).reshape(self.shape)
        return from_bf16(raw) if self.kind == "bf16" else raw.copy()

    def is_untouched(self, first_row: int) -> bool:
        """Rows from `first_row` on are as they were before the first write."""
        n_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        raw = np.frombuffer(self.array.download(0, n_bytes), np.uint8).reshape(self.shape[0], -1)
        return bool((raw[first_row:] == 0xFF).all())


def put(cuda: Any, data: np.ndarray, kind: str) -> Value:
    return Value(cuda, np.shape(data), kind, data)


def room(cuda: Any, *shape: int, kind: str) -> Value:
    return Value(cuda, shape, kind)


def rows(cuda: Any, n: int, kind: str = "tokens") -> tuple[str, Any]:
    """The argument `rows` of n rows."""
    return kind, put(cuda, np.array([n]), "int32").array


def call(cuda: Any, op: str, n_rows: int, **args: Any) -> None:
    """Runs an operation whose host knows of n_rows rows."""
    given = {name: value.array if isinstance(value, Value) else value for name, value in args.items()}
    getattr(cuda.ops, op)({"n_tokens": n_rows, "n_outputs": n_rows}, **given)
