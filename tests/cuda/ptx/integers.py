"""Arithmetic and bits of integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any
Function = Callable[..., Array]
Rule = tuple[Function, list[type[np.generic]], type[np.generic]]
"""The function of arrays, the types of its sources, the type of its result."""

U32, U64, F64 = np.uint32, np.uint64, np.float64


def same(function: Function, n: int, dtype: type[np.generic]) -> Rule:
    """Of n sources of one type, that of the result."""
    return function, [dtype] * n, dtype


def integer_rule(base: str, flags: list[str], dtype: type[np.generic]) -> Rule | None:
    bits = 8 * np.dtype(dtype).itemsize
    signed = np.issubdtype(dtype, np.signedinteger)
    if base in ("mul", "mad"):
        return _product(base == "mad", flags[0], dtype)
    if base in ("shl", "shr"):
        shift = np.left_shift if base == "shl" else np.right_shift
        return (lambda a, n: shift(a, np.minimum(n, U32(bits)).astype(dtype))), [dtype, U32], dtype
    simple: dict[str, tuple[Function, int]] = {
        "add": (np.add, 2), "sub": (np.subtract, 2), "min": (np.minimum, 2), "max": (np.maximum, 2),
        "and": (np.bitwise_and, 2), "or": (np.bitwise_or, 2), "xor": (np.bitwise_xor, 2),
        "not": (np.invert, 1),
        "neg": (np.negative, 1), "abs": (np.abs, 1), "div": (_quotient, 2), "rem": (_remainder, 2),
        "cnot": (lambda a: (a == 0).astype(dtype), 1),
        "sad": (lambda a, b, c: c + np.where(a > b, a - b, b - a), 3),
    }  # fmt: skip
    if dtype is not np.bool_ and base in simple:
        return same(*simple[base], dtype)
    if base == "popc":
        return (lambda a: np.bitwise_count(a).astype(U32)), [dtype], U32
    if base == "clz":
        return (lambda a: (bits - _bit_length(a)).astype(U32)), [dtype], U32
    if base == "bfind" and not signed:
        return (lambda a: (_bit_length(a) - 1).astype(U32)), [dtype], U32
    if base == "brev":
        return same(_reversed_bits, 1, dtype)
    if base == "bfe" and not signed:
        return _field_extract(dtype, bits)
    if base == "bfi":
        return _field_insert(dtype, bits)
    if base == "lop3":
        return (lambda a, b, c, table: _lop3(a, b, c, int(table))), [U32] * 4, U32
    if base == "prmt" and not flags:
        return same(_permute, 3, U32)
    if base == "shf":
        return same(_funnel(flags), 3, U32)
    return None


def _product(add: bool, part: str, dtype: type[np.generic]) -> Rule:
    size = np.dtype(dtype).itemsize
    kind = "i" if np.issubdtype(dtype, np.signedinteger) else "u"
    wide: Any = np.dtype(f"{kind}{min(2 * size, 8)}").type
    result = wide if part == "wide" else dtype
    if part == "lo":
        multiply: Function = np.multiply
    elif part == "wide":
        multiply = lambda a, b: np.multiply(a, b, dtype=wide)  # noqa: E731
    elif size < 8:
        multiply = lambda a, b: (np.multiply(a, b, dtype=wide) >> wide(8 * size)).astype(dtype)  # noqa: E731
    else:
        multiply = _high64
    if add:
        return (lambda a, b, c: multiply(a, b) + c), [dtype, dtype, result], result
    return multiply, [dtype, dtype], result


def _high64(a: Array, b: Array) -> Array:
    exact = np.asarray(a).astype(object) * np.asarray(b).astype(object) >> 64
    return np.asarray(exact).astype(a.dtype)


def _quotient(a: Array, b: Array) -> Array:
    """Towards zero."""
    if a.dtype.kind == "u":
        return a // b
    quotient = np.abs(a) // np.abs(b)
    return np.where((a < 0) != (b < 0), -quotient, quotient).astype(a.dtype)


def _remainder(a: Array, b: Array) -> Array:
    return np.fmod(a, b)


def _bit_length(a: Array) -> Array:
    if a.dtype.itemsize == 8:
        high, low = (a >> U64(32)).astype(U32), a.astype(U32)
        return np.where(high > 0, 32 + _bit_length(high), _bit_length(low))
    return np.frexp(a.view(f"u{a.dtype.itemsize}").astype(F64))[1].astype(np.int64)


def _reversed_bits(a: Array) -> Array:
    bits = np.unpackbits(a[:, None].view(np.uint8), axis=1)
    return np.packbits(bits[:, ::-1], axis=1)[:, ::1].copy().view(a.dtype)[:, 0]


def _field_extract(dtype: Any, bits: int) -> Rule:
    def extract(a: Array, start: Array, length: Array) -> Array:
        start, length = np.minimum(start & U32(255), U32(bits)), np.minimum(length & U32(255), U32(bits))
        ones = (dtype(1) << length.astype(dtype)) - dtype(1)
        return a >> start.astype(dtype) & ones

    return extract, [dtype, U32, U32], dtype


def _field_insert(dtype: Any, bits: int) -> Rule:
    def insert(a: Array, b: Array, start: Array, length: Array) -> Array:
        start, length = np.minimum(start & U32(255), U32(bits)), np.minimum(length & U32(255), U32(bits))
        ones = ((dtype(1) << length.astype(dtype)) - dtype(1)) << start.astype(dtype)
        return (b & ~ones) | (a << start.astype(dtype) & ones)

    return insert, [dtype, dtype, U32, U32], dtype


def _lop3(a: Array, b: Array, c: Array, table: int) -> Array:
    """The sum of the minterms that the table has."""
    result = np.zeros(np.broadcast_shapes(a.shape, b.shape, c.shape), U32)
    for i in range(8):
        if table >> i & 1:
            result |= (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
    return result


def _permute(a: Array, b: Array, selector: Array) -> Array:
    both = a.astype(U64) | b.astype(U64) << U64(32)
    result: Array = U32(0)
    for i in range(4):
        which = selector >> U32(4 * i) & U32(15)
        byte = (both >> (U64(8) * (which & U32(7)).astype(U64))).astype(U32) & U32(255)
        sign = np.where(byte & U32(128), U32(255), U32(0))
        result = result | np.where(which & U32(8), sign, byte) << U32(8 * i)
    return result


def _funnel(flags: list[str]) -> Function:
    """The 64 bits (second, first) shifted; the upper half of a left shift, the lower of a right one."""
    left, wrap = "l" in flags, "wrap" in flags

    def shift(low: Array, high: Array, n: Array) -> Array:
        n = (n & U32(31) if wrap else np.minimum(n, U32(32))).astype(U64)
        both = high.astype(U64) << U64(32) | low.astype(U64)
        return ((both << n) >> U64(32) if left else both >> n).astype(U32)

    return shift
