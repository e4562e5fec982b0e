"""The safetensors reader: what it returns for good files, and that no bad file gets past it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_writer import mutants
from lanner._core import MappedFile, ModelFileError
from lanner.safetensors import MAX_HEADER_BYTES, read_tensors
from tiny_folder import Stored, assemble, header_of, safetensors_bytes

RNG = np.random.default_rng(3)
TENSORS: dict[str, Stored] = {
    "f32": ("F32", (3, 5), RNG.bytes(60)),
    "half": ("F16", (2, 3, 4), RNG.bytes(48)),
    "brain": ("BF16", (7,), RNG.bytes(14)),
    "scalar": ("I64", (), RNG.bytes(8)),
    "none": ("F32", (0, 4), b""),
    "mask": ("BOOL", (3, 1), RNG.bytes(3)),
    "zażółć \U0001f41f": ("F8_E4M3", (5,), RNG.bytes(5)),
    "packed": ("F4", (4,), RNG.bytes(2)),  # a dtype that fills no whole byte
}
ORDER = ["scalar", "none", "f32", "half", "brain", "mask", "zażółć \U0001f41f", "packed"]
DATA = b"".join(TENSORS[name][2] for name in ORDER)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write_file(data: bytes) -> Path:
        (tmp_path / "model.safetensors").write_bytes(data)
        return tmp_path / "model.safetensors"

    return write_file


def test_reads_back_what_was_written(write: Callable[[bytes], Path]) -> None:
    data = assemble(header_of(TENSORS, ORDER), DATA)
    tensors = read_tensors(write(data))
    assert set(tensors) == set(TENSORS)
    for name, (dtype, shape, stored) in TENSORS.items():
        t = tensors[name]
        format = "'F4'" if dtype == "F4" else dtype.lower()
        assert (t.name, t.shape, t.format, t.n_bytes) == (name, shape, format, len(stored))
        assert data[t.offset : t.offset + t.n_bytes] == stored == bytes(t.file.range(t.offset, t.n_bytes))


def test_no_tensors_and_no_metadata(write: Callable[[bytes], Path]) -> None:
    assert read_tensors(write(assemble(b"{}", b""))) == {}


def test_ranges_are_checked_against_the_file(write: Callable[[bytes], Path]) -> None:
    file = MappedFile(write(bytes(range(64))))
    assert bytes(file.range(60, 4)) == bytes((60, 61, 62, 63)) and bytes(file.range(64, 0)) == b""
    assert memoryview(file).readonly and bytes(file) == bytes(range(64))
    for offset, n in ((60, 5), (65, 0), (2**64 - 1, 2), (1, 2**64 - 1)):
        with pytest.raises(ModelFileError, match=f"{n} bytes at offset {offset} run past the end of the 64"):
            file.range(offset, n)
    for offset, n in ((0, 17), (64, 1), (2**64 - 4, 1), (0, 2**62), (4, 2**64 - 1)):
        with pytest.raises(ModelFileError, match=r"past the end|are more than"):
            file.floats(offset, n, "f32")
    with pytest.raises(ModelFileError, match="infinite or NaN"):
        MappedFile(write(np.array([1, np.inf], np.float16).tobytes())).floats(0, 2, "f16")


def test_a_view_keeps_the_file_mapped(write: Callable[[bytes], Path]) -> None:
    view = MappedFile(write(bytes(range(64)))).range(8, 8)
    assert bytes(view) == bytes(range(8, 16))


def changed(name: str, **fields: Any) -> bytes:
    """The good file with other fields in one entry; None removes a field."""
    header = header_of(TENSORS, ORDER)
    header[name] = {k: v for k, v in (header[name] | fields).items() if v is not None}
    return assemble(header, DATA)


def two(a: tuple[int, int], b: tuple[int, int], n_bytes: int) -> bytes:
    """Two tensors of bytes at stated ranges in n_bytes of data."""
    ranges = {"a": a, "b": b}
    header = {n: {"dtype": "U8", "shape": [e - s], "data_offsets": [s, e]} for n, (s, e) in ranges.items()}
    return assemble(header, bytes(n_bytes))


ENTRY = b'{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'
GOOD = assemble(header_of(TENSORS, ORDER), DATA)
DEEP = 100_000
BAD: dict[str, tuple[bytes, str]] = {
    "three bytes": (b"abc", "has 3 bytes, a safetensors file has at least 8"),
    "header past the end": (assemble(b"{}", b"", n_header=9), "the header has 9 bytes, the file 8 after"),
    "header of 2^64 - 1": (assemble(b"{}", b"", n_header=2**64 - 1), "wanted at most 100000000"),
    "header over 100 MB": (assemble(b"{}", b"", n_header=MAX_HEADER_BYTES + 1), "wanted at most 100000000"),
    "no header": (bytes(8), "header: is not JSON"),
    "not UTF-8": (assemble(b'{"\xff":' + ENTRY + b"}", bytes(4)), "header: is not UTF-8 at byte 2"),
    "lone surrogate": (assemble(b'{"a":' + ENTRY + b', "\xed\xa0\x80": 1}', bytes(4)), "is not UTF-8"),
    "UTF-16": (assemble('{"a": 1}'.encode("utf-16"), b""), "is not UTF-8"),
    "not JSON": (assemble(b"{'a': 1}", b""), "header: is not JSON"),
    "cut JSON": (assemble(b'{"a": {"dtype"', b""), "is not JSON"),
    "two values": (assemble(b"{}{}", b""), "is not JSON"),
    "a list": (assemble(b"[]", b""), "is a list, wanted an object"),
    "a number": (assemble(b"7", b""), "is a int, wanted an object"),
    "nested lists": (assemble(b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}", b""), "nested too deeply"),
    "nested objects": (assemble(b'{"a":' * DEEP + b"1" + b"}" * DEEP, b""), "nested too deeply"),
    "digits": (assemble(b'{"a":' + ENTRY.replace(b"[4]", b"[" + b"9" * 5000 + b"]") + b"}", b""), "not JSON"),
    "same name": (assemble(b'{"a":' + ENTRY + b',"a":' + ENTRY + b"}", bytes(4)), "name 'a' occurs more"),
    "same field": (assemble(b'{"a":{"dtype":"U8",' + ENTRY[1:] + b"}", bytes(4)), "name 'dtype' occurs"),
    "same name, escaped": (assemble(b'{"a":' + ENTRY + rb',"\u0061":' + ENTRY + b"}", b""), "'a' occurs"),
    "metadata": (assemble({"__metadata__": {"a": 1}}, b""), "__metadata__ is no object of strings"),
    "entry is a list": (assemble({"a": []}, b""), "tensor 'a': wanted an object of dtype, shape and"),
    "no dtype": (changed("f32", dtype=None), "tensor 'f32': wanted an object of dtype"),
    "a field too many": (changed("f32", scale=2.0), "tensor 'f32': wanted an object of dtype"),
    "dtype is a number": (changed("f32", dtype=4), "dtype is 4, wanted a string"),
    "wrong dtype": (changed("f32", dtype="F16"), "F16 of shape [3, 5] does not fill its 60 bytes"),
    "shape is a number": (changed("f32", shape=15), "shape is 15, wanted a list"),
    "negative dimension": (changed("f32", shape=[-3, -5]), "shape is [-3, -5], wanted a list"),
    "fraction": (changed("f32", shape=[3, 5.0]), "shape is [3, 5.0], wanted a list"),
    "true": (changed("brain", shape=[True, 7]), "shape is [True, 7], wanted a list"),
    "65 dimensions": (changed("brain", shape=[1] * 64 + [7]), "wanted a list of at most 64"),
    "product wraps to 60 bytes": (changed("f32", shape=[2**62, 4, 15]), "does not fill its 60 bytes"),
    "2^63": (changed("none", shape=[0, 2**63]), "wanted a list of at most 64 numbers from 0 to 2^63 - 1"),
    "shape": (changed("f32", shape=[5, 5]), "F32 of shape [5, 5] does not fill its 60 bytes"),
    "one offset": (changed("f32", data_offsets=[8]), "data_offsets is [8], wanted two numbers"),
    "offsets in words": (changed("f32", data_offsets=["8", "68"]), "data_offsets is ['8', '68'], wanted"),
    "offsets swapped": (changed("f32", data_offsets=[68, 8]), "data_offsets is [68, 8], wanted two numbers"),
    "negative offset": (changed("f32", data_offsets=[-60, 0]), "data_offsets is [-60, 0], wanted"),
    "offset past the end": (changed("packed", data_offsets=[138, 141]), "at most 140, the bytes of data"),
    "offset of 2^70": (changed("f32", data_offsets=[2**70, 2**70 + 60]), "wanted two numbers in order"),
    "misaligned": (
        assemble(header_of({"b": ("U8", (1,), b"1"), "f": ("F32", (1,), b"1234")}), b"11234"),
        "tensor 'f': the offset 1 is not a multiple of 4",
    ),
    "overlap": (two((0, 5), (4, 8), 8), "'b' at offset 4 overlaps the tensor before it, which ends at 5"),
    "the same range": (two((0, 4), (0, 4), 4), "overlaps"),
    "hole": (two((0, 4), (5, 8), 8), "tensor 'b' at offset 5 leaves a hole before it, which ends at 4"),
    "hole in front": (two((1, 4), (4, 8), 8), "tensor 'a' at offset 1 leaves a hole"),
    "bytes behind": (two((0, 4), (4, 8), 9), "1 bytes behind the last tensor belong to none"),
    "cut": (GOOD[:-1], "is the file truncated?"),
    "an escape in a name": (assemble({"\x1b[31m": 1}, b""), r"tensor '\x1b[31m': wanted"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refused_by_name(write: Callable[[bytes], Path], name: str) -> None:
    data, message = BAD[name]
    path = write(data)
    with pytest.raises(ModelFileError) as caught:
        read_tensors(path)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)


@pytest.mark.parametrize("n", [0, 7, 8, 20, len(GOOD) // 2, len(GOOD) - 1])
def test_a_file_that_is_cut(write: Callable[[bytes], Path], n: int) -> None:
    with pytest.raises(ModelFileError):
        read_tensors(write(GOOD[:n]))


def test_mutants_are_refused_or_well_formed(write: Callable[[bytes], Path]) -> None:
    """Whatever changes, what is returned lies inside the file, without overlap."""
    opened = 0
    for data in mutants(GOOD, 3000, seed=1):
        try:
            tensors = read_tensors(write(data))
        except ModelFileError:
            continue
        opened += 1
        assert sum(t.n_bytes for t in tensors.values()) <= len(data)
        for t in tensors.values():
            assert len(t.file.range(t.offset, t.n_bytes)) == t.n_bytes
    assert 0 < opened < 3000


def test_a_header_of_the_largest_size_is_read(write: Callable[[bytes], Path]) -> None:
    """The limit itself passes; most of it is spaces."""
    text = json.dumps(header_of({"a": ("U8", (4,), bytes(4))})).encode()
    data = assemble(text + b" " * (MAX_HEADER_BYTES - len(text)), bytes(4))
    assert list(read_tensors(write(data))) == ["a"]


def test_written_files_are_those_of_the_format() -> None:
    """The writer of these tests, against the layout in words: length, JSON, data."""
    data = safetensors_bytes({"a": ("U8", (2,), b"xy")})
    n = int.from_bytes(data[:8], "little")
    assert json.loads(data[8 : 8 + n])["a"] == {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}
    assert data[8 + n :] == b"xy" and n % 8 == 0
