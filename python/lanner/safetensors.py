"""The header of a safetensors file: every count, range and name is checked before it is used."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lanner import _core
from lanner.checkpoint import TensorInfo

MAX_HEADER_BYTES = 100_000_000
"""Of a header, as the format's own library limits it; it also bounds what the JSON parser may build."""

MAX_DIMS = 64
"""Dimensions of a tensor: as many as NumPy has."""

LFS_POINTER = b"version https://git-lfs"
"""How the file begins that Git leaves where a large one was not fetched."""

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2,
    "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8, "C64": 8,
}  # fmt: skip
"""Bytes of an element of each dtype of the format, but for those that fill no whole byte."""


def read_json(data: bytes | memoryview, source: str) -> dict[str, Any]:
    """An object of JSON without a name that occurs twice; ModelFileError naming `source` otherwise."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise _core.ModelFileError(f"{source}: name {name!r:.80} occurs more than once")
            found[name] = value
        return found

    try:
        found = json.loads(str(data, "utf-8"), object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise _core.ModelFileError(f"{source}: is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise _core.ModelFileError(f"{source}: is nested too deeply") from None
    except ValueError as error:  # no JSON, or a number of thousands of digits
        raise _core.ModelFileError(f"{source}: is not JSON: {error!s:.200}") from None
    if not isinstance(found, dict):
        raise _core.ModelFileError(f"{source}: is a {type(found).__name__}, wanted an object")
    return found


def read_tensors(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file, by name, in the order of the file.

    Raises OSError where it cannot be opened, ModelFileError where its bytes contradict the format: the data
    of all tensors must fill what follows the header, without overlap, hole or rest.
    """
    file = _core.MappedFile(os.fspath(path))
    if bytes(file.range(0, min(file.n_bytes, len(LFS_POINTER)))) == LFS_POINTER:
        raise _core.ModelFileError(f"{path}: is a Git LFS pointer, not the file; fetch it with: git lfs pull")
    if file.n_bytes < 8:
        raise _core.ModelFileError(f"{path}: has {file.n_bytes} bytes, a safetensors file has at least 8")
    n_header = int.from_bytes(file.range(0, 8), "little")
    if n_header > MAX_HEADER_BYTES:
        raise _core.ModelFileError(
            f"{path}: the header has {n_header} bytes, wanted at most {MAX_HEADER_BYTES}"
        )
    if n_header > file.n_bytes - 8:
        raise _core.ModelFileError(
            f"{path}: the header has {n_header} bytes, the file {file.n_bytes - 8} after its length: "
            "is it truncated?"
        )
    header = read_json(file.range(8, n_header), f"{path}: header")
    _check_metadata(header.pop("__metadata__", {}), path)
    data_begin = 8 + n_header
    tensors = {name: _tensor(name, entry, path, file, data_begin) for name, entry in header.items()}
    _check_tiling(tensors.values(), path, data_begin)
    return tensors


def _check_metadata(metadata: object, path: Path) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _core.ModelFileError(f"{path}: __metadata__ is no object of strings")


def _tensor(name: str, entry: object, path: Path, file: _core.MappedFile, data_begin: int) -> TensorInfo:
    where = f"{path}: tensor {name!r:.80}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _core.ModelFileError(f"{where}: wanted an object of dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str):
        raise _core.ModelFileError(f"{where}: dtype is {dtype!r:.80}, wanted a string")
    if not _is_sizes(shape) or len(shape) > MAX_DIMS:
        raise _core.ModelFileError(
            f"{where}: shape is {shape!r:.80}, wanted a list of at most {MAX_DIMS} numbers from 0 to 2^63 - 1"
        )
    if (
        not _is_sizes(offsets)
        or len(offsets) != 2
        or not offsets[0] <= offsets[1] <= file.n_bytes - data_begin
    ):
        raise _core.ModelFileError(
            f"{where}: data_offsets is {offsets!r:.80}, wanted two numbers in order, at most "
            f"{file.n_bytes - data_begin}, the bytes of data: is the file truncated?"
        )
    n_bytes = offsets[1] - offsets[0]
    format = repr(dtype)
    if dtype in ITEM_BYTES:
        format = dtype.lower()
        item = ITEM_BYTES[dtype]
        if math.prod(shape) * item != n_bytes:
            raise _core.ModelFileError(
                f"{where}: {dtype} of shape {shape!r:.80} does not fill its {n_bytes} bytes"
            )
        if offsets[0] % item:
            raise _core.ModelFileError(
                f"{where}: the offset {offsets[0]} is not a multiple of {item}, the bytes of {dtype}"
            )
    return TensorInfo(name, tuple(shape), format, n_bytes, data_begin + offsets[0], file)


def _is_sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _check_tiling(tensors: Iterable[TensorInfo], path: Path, data_begin: int) -> None:
    end, n_bytes = data_begin, data_begin
    for tensor in sorted(tensors, key=lambda t: (t.offset, t.n_bytes)):
        n_bytes = tensor.file.n_bytes
        if tensor.offset != end:
            wrong = "overlaps the tensor before it" if tensor.offset < end else "leaves a hole before it"
            raise _core.ModelFileError(
                f"{path}: tensor {tensor.name!r:.80} at offset {tensor.offset - data_begin} {wrong}, "
                f"which ends at {end - data_begin}"
            )
        end += tensor.n_bytes
    if end != n_bytes:
        raise _core.ModelFileError(f"{path}: {n_bytes - end} bytes behind the last tensor belong to none")
