"""Writes small GGUF files for tests: good ones, and bad ones in which one field is wrong.

The layout is that of docs/gguf.md of ggml-org/ggml: header, metadata, tensor infos, padding, data.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)

_SCALARS = dict(zip((U8, I8, U16, I16, U32, I32, F32, BOOL, U64, I64, F64), "BbHhIif?Qqd", strict=True))
_DTYPES = {
    "uint8": U8, "int8": I8, "uint16": U16, "int16": I16, "uint32": U32, "int32": I32,
    "uint64": U64, "int64": I64, "float32": F32, "float64": F64, "bool": BOOL,
}  # fmt: skip
_TENSOR_TYPES = {"float32": 0, "float16": 1}


@dataclass(frozen=True)
class Typed:
    """A metadata value of a stated type; for ARRAY the value is a pair (element type, list)."""

    type: int
    value: Any


@dataclass(frozen=True)
class Encoded:
    """A tensor of a stated type number: `shape` in NumPy order, `data` as stored."""

    type: int
    shape: tuple[int, ...]
    data: bytes


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def payload(kind: int, value: Any) -> bytes:
    """A value without its type number; bytes where a number is wanted are taken as they are."""
    if kind == STRING:
        return string(value)
    if isinstance(value, bytes):
        return value
    if kind == ARRAY:
        element, values = value
        if isinstance(values, np.ndarray):
            return struct.pack("<IQ", element, len(values)) + values.tobytes()
        return struct.pack("<IQ", element, len(values)) + b"".join(payload(element, v) for v in values)
    return struct.pack("<" + _SCALARS[kind], value)


def typed(value: Any) -> Typed:
    """The type a converter would choose: u32 for counts, i32 or i64 otherwise, f32 for floats."""
    if isinstance(value, Typed):
        return value
    if isinstance(value, bool):
        return Typed(BOOL, value)
    if isinstance(value, int):
        small, large = (U32, U64) if value >= 0 else (I32, I64)
        return Typed(small if -(2**31) <= value < 2**32 else large, value)
    if isinstance(value, float):
        return Typed(F32, value)
    if isinstance(value, (str, bytes)):
        return Typed(STRING, value)
    if isinstance(value, np.ndarray):
        return Typed(ARRAY, (_DTYPES[value.dtype.name], value))
    items = [typed(v) for v in value]
    return Typed(ARRAY, (items[0].type if items else U32, [v.value for v in items]))


def entry(key: str | bytes, value: Any) -> bytes:
    v = typed(value)
    return string(key) + struct.pack("<I", v.type) + payload(v.type, v.value)


def tensor_info(
    name: str | bytes, dims: Sequence[int], kind: int, offset: int, n_dims: int | None = None
) -> bytes:
    """`dims` in file order, fastest first; `n_dims` is their true number unless given."""
    n = len(dims) if n_dims is None else n_dims
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", n, *dims, kind, offset)


def assemble(
    entries: Sequence[bytes] = (),
    infos: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_entries: int | None = None,
    n_tensors: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A file from encoded parts; counts are the true ones unless given."""
    n_infos = len(infos) if n_tensors is None else n_tensors
    n_pairs = len(entries) if n_entries is None else n_entries
    head = magic + struct.pack("<IQQ", version, n_infos, n_pairs) + b"".join(entries) + b"".join(infos)
    return head + bytes(-len(head) % alignment) + data


def gguf_bytes(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray | Encoded],
    *,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """A well-formed file. Arrays are stored as f32 or f16 by their dtype."""
    entries = [entry(key, value) for key, value in metadata.items()]
    if alignment != 32:
        entries.append(entry("general.alignment", alignment))
    infos, data = [], b""
    for name, tensor in tensors.items():
        if isinstance(tensor, np.ndarray):
            tensor = Encoded(_TENSOR_TYPES[tensor.dtype.name], tensor.shape, tensor.tobytes())
        infos.append(tensor_info(name, tensor.shape[::-1], tensor.type, len(data)))
        data += tensor.data + bytes(-len(tensor.data) % alignment)
    return assemble(entries, infos, data, version=version, alignment=alignment)


# ---- files with one wrong field ----------------------------------------------------------------


def one_tensor(name: str, dims: Sequence[int], kind: int, offset: int, n_dims: int | None = None) -> bytes:
    """A file of one tensor and 64 bytes of data."""
    return assemble((), [tensor_info(name, dims, kind, offset, n_dims)], bytes(64))


def raw_entry(key: str, kind: int, raw: bytes) -> bytes:
    return assemble([string(key) + struct.pack("<I", kind) + raw])


def array_of(element: int, count: int, raw: bytes = b"") -> bytes:
    return raw_entry("k", ARRAY, struct.pack("<IQ", element, count) + raw)


def mutants(data: bytes, n: int, seed: int) -> Iterator[bytes]:
    """n copies of `data`, each with one to four bytes, numbers or ranges changed; the same for a seed."""
    rng = random.Random(seed)
    extremes = (0, 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1, len(data))
    for _ in range(n):
        out = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 4))):
            at = rng.randrange(len(out))
            kind = rng.randrange(4)
            if kind == 0:
                out[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                out[at] = rng.choice((0, 1, 9, 127, 128, 255))
            elif kind == 2:
                out[at : at + 8] = struct.pack("<Q", rng.choice((*extremes, rng.getrandbits(64))))
            else:
                del out[at : at + rng.choice((1, 4, 8, 100))]
        yield bytes(out)


# ---- a file with every kind of value -------------------------------------------------------------

RNG = np.random.default_rng(7)
METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "u8": Typed(U8, 255), "i8": Typed(I8, -128), "u16": Typed(U16, 65535), "i16": Typed(I16, -32768),
    "u32": Typed(U32, 2**32 - 1), "i32": Typed(I32, -(2**31)), "u64": Typed(U64, 2**64 - 1),
    "i64": Typed(I64, -(2**63)), "f32": Typed(F32, 0.1), "f64": Typed(F64, 0.1),
    "yes": True, "no": False, "text": "zażółć \U0001f41f\0 end", "empty": "",
    "tokens": ["<s>", "", "Ġthe", "鱼"], "scores": np.array([0.5, -1e30, math.inf], np.float32),
    "types": np.array([1, 3, -6], np.int32), "bytes": np.arange(7, dtype=np.uint8),
    "flags": np.array([True, False, True]), "none": [], "no_strings": Typed(ARRAY, (STRING, [])),
    "wide": np.array([2**63, 1], np.uint64), "doubles": np.array([0.1, 1e300]),
}  # fmt: skip
TENSORS: dict[str, np.ndarray | Encoded] = {
    "token_embd.weight": Encoded(8, (6, 64), RNG.bytes(6 * 2 * 34)),
    "blk.0.ffn_up.weight": Encoded(3, (5, 32), RNG.bytes(5 * 20)),
    "blk.0.attn_norm.weight": RNG.standard_normal(9, np.float32),
    "experts": RNG.standard_normal((2, 3, 4, 5), np.float32).astype(np.float16),
}
NESTED = Typed(ARRAY, (ARRAY, [(U16, [1, 2]), (STRING, ["a", "b"]), (ARRAY, [(BOOL, [True])])]))


# ---- bad files: bytes, and what the error must say about them ------------------------------------


def nested(depth: int) -> bytes:
    """An empty array inside depth - 1 arrays of one element."""
    outer, inner = struct.pack("<IQ", ARRAY, 1), struct.pack("<IQ", U8, 0)
    return raw_entry("k", ARRAY, outer * (depth - 1) + inner)


MALFORMED = {
    "magic": (assemble(magic=b"GGML"), "starts with 'GGML', wanted 'GGUF'"),
    "magic_binary": (assemble(magic=b"\x00\xff\x80A"), r"starts with '\x00\xff\x80A'"),
    "three_bytes": (b"GGU", "ends inside the magic"),
    "header_only": (assemble(n_entries=1), "number of metadata entries is 1"),
    "n_tensors_2e40": (assemble(n_tensors=2**40), "number of tensors is 1099511627776"),
    "n_tensors_max": (assemble(n_tensors=2**64 - 1), "number of tensors is 18446744073709551615"),
    "n_entries_2e40": (assemble(n_entries=2**40), "number of metadata entries is 1099511627776"),
    "n_entries_one_more": (assemble([entry("k", "v" * 99)], n_entries=2), "the name at byte 144 is empty"),
    "key_length": (assemble([(2**40).to_bytes(8, "little") + bytes(20)]), "key is 1099511627776"),
    "key_not_utf8": (assemble([entry(b"k\xc0\x80", 1)]), r"not UTF-8: 'k\xc0\x80'"),
    "value_type": (raw_entry("k", 13, bytes(8)), "key 'k': the type of the value is 13, the largest"),
    "value_cut": (raw_entry("a.long.key", U64, bytes(8))[:50], "key 'a.long.key': the file ends inside"),
    "bool_2": (raw_entry("k", BOOL, b"\x02"), "key 'k': a bool is stored as 2"),
    "bool_array": (array_of(BOOL, 3, b"\0\1\7"), "key 'k': a bool is stored as 7"),
    "string_length": (raw_entry("k", STRING, (10**6).to_bytes(8, "little") + b"abc"), "string is 1000000"),
    "string_length_max": (raw_entry("k", STRING, b"\xff" * 8 + b"abc"), "string is 18446744073709551615"),
    "element_type": (array_of(99, 1, bytes(8)), "key 'k': the type of array elements is 99"),
    "array_count": (array_of(U32, 1000), "key 'k': the number of array elements is 1000"),
    "array_count_wraps": (array_of(U64, 2**61 + 1, bytes(8)), "array elements is 2305843009213693953"),
    "string_array_count": (array_of(STRING, 2**40), "number of array elements is 1099511627776"),
    "string_array_element": (array_of(STRING, 2, string("a") + b"\xff" * 8), "length of a string is"),
    "nested_count": (array_of(ARRAY, 2**40, bytes(64)), "number of array elements is 1099511627776"),
    "nesting": (nested(5), "nested deeper than 4"),
    "nesting_100000": (nested(100_000), "nested deeper than 4"),
    "no_key": (assemble([entry("", 1)]), "the name at byte 24 is empty"),
    "no_tensor_name": (one_tensor("", (8,), 0, 0), "the name at byte 24 is empty"),
    "same_key": (assemble([entry("k", 1), entry("a", 1), entry("k", 2)]), "key 'k': occurs more"),
    "alignment_0": (assemble([entry("general.alignment", 0)]), "the value is 0, wanted a power of two"),
    "alignment_4": (assemble([entry("general.alignment", 4)]), "the value is 4"),
    "alignment_24": (assemble([entry("general.alignment", 24)]), "the value is 24"),
    "alignment_2e31": (assemble([entry("general.alignment", 2**31)]), "the value is 2147483648"),
    "alignment_type": (assemble([entry("general.alignment", "32")]), "the type is string, wanted u32"),
    "tensor_name_length": (assemble((), [b"\xff" * 8 + bytes(40)]), "length of a tensor name is"),
    "no_dims": (one_tensor("t", (), 0, 0), "tensor 't': the number of dimensions is 0, wanted 1 to 4"),
    "five_dims": (one_tensor("t", (1,) * 5, 0, 0), "the number of dimensions is 5"),
    "n_dims_max": (one_tensor("t", (1,), 0, 0, n_dims=2**32 - 1), "the number of dimensions is 4294967295"),
    "zero_dim": (one_tensor("t", (4, 0), 0, 0), "tensor 't': dimension 1 is 0"),
    "product": (one_tensor("t", (2**32, 2**32), 0, 0), "tensor 't': the size of 4294967296 x 4294967296"),
    "product_to_0": (one_tensor("t", (2**62,), 0, 0), "overflows 64 bits"),
    "product_to_64": (one_tensor("t", (16, 2**63, 2), 0, 0), "overflows 64 bits"),
    "past_end": (one_tensor("t", (17,), 0, 0), "tensor 't': 68 bytes at offset 0 run past the end"),
    "offset_past_end": (one_tensor("t", (8,), 0, 96), "tensor 't': 32 bytes at offset 96 run past the end"),
    "offset_wraps": (one_tensor("t", (16,), 0, 2**64 - 32), "run past the end"),
    "misaligned": (one_tensor("t", (8,), 0, 16), "the offset 16 is not a multiple of the alignment 32"),
    "row": (one_tensor("t", (48,), 2, 0), "a row has 48 elements, q4_0 wants a multiple of 32"),
    "same_tensor": (
        assemble((), [tensor_info("t", (8,), 0, 0), tensor_info("t", (8,), 0, 32)], bytes(64)),
        "tensor 't': occurs more than once",
    ),
    "overlap": (
        assemble((), [tensor_info("a", (8,), 0, 32), tensor_info("b", (9,), 0, 0)], bytes(64)),
        "tensor 'a': the data overlaps that of tensor 'b'",
    ),
    "long_name": (one_tensor("t" * 500, (48,), 2, 0), "tensor '" + "t" * 96 + "...':"),
}  # fmt: skip
UNSUPPORTED = {
    "version_1": (assemble(version=1), "the GGUF version is 1, wanted 2 or 3"),
    "version_99": (assemble(version=99), "the GGUF version is 99"),
    "version_0": (assemble(version=0), "the GGUF version is 0"),
    "big_endian": (assemble(version=3 << 24), "big-endian"),
    "tensor_type": (one_tensor("blk.0.w", (8,), 77, 0), "tensor 'blk.0.w': type number 77"),
    "removed_type": (one_tensor("w", (32,), 4, 0), "tensor 'w': type number 4"),
}
