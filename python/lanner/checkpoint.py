"""A model as it lies on disk: a GGUF file, whole or split, or a Hugging Face folder."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from lanner import _core
from lanner._records import dataclass
from lanner.config import GgufValues, Settings

_GGUF_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_OF_A_FOLDER = (".safetensors", "config.json", ".safetensors.index.json")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: bytes [offset, offset + n_bytes) of `file`.

    `shape` is slowest dimension first; `format` a name such as "f32" or "q4_1", the lower-case dtype of a
    safetensors file such as "i64" that this library does not compute with, or one in quotes of unknown size.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    n_bytes: int
    offset: int
    file: _core.MappedFile


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened model: its settings and where its tensors lie.

    `path` is what errors name: the GGUF file or the folder. `architecture` is GGUF's general.architecture or
    the folder's model_type, `n_bytes` the size of all files of weights. `gguf` is the file with the metadata,
    None for a folder; `folder` is None for a GGUF file.
    """

    path: str
    kind: Literal["gguf", "hf"]
    architecture: str
    settings: Settings
    tensors: dict[str, TensorInfo]
    n_bytes: int
    gguf: _core.GgufFile | None = None
    folder: Path | None = None


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Opens a model.

    Args:
        path: a GGUF file (any part of a split one), a folder with config.json and safetensors, or one of
            these two files.

    Raises:
        OSError: a file that cannot be opened.
        ModelFileError: a file that contradicts its format or another; a part that is missing.
        UnsupportedModelError: a format that is not read, pickled weights among them.
    """
    path = Path(os.fspath(path))
    if path.is_dir():
        return _open_folder(path)
    if path.name.endswith(_OF_A_FOLDER) and path.is_file():
        checkpoint = _open_folder(path.parent)
        files = {Path(tensor.file.path).name for tensor in checkpoint.tensors.values()}
        if path.suffix == ".safetensors" and path.name not in files:
            raise _core.ModelFileError(
                f"{path}: is none of the weights of its folder, {', '.join(sorted(files))}"
            )
        return checkpoint
    if path.suffix in _PICKLES and path.is_file():
        raise _core.UnsupportedModelError(pickle_message(path))
    return _open_gguf(path)


def pickle_message(path: Path) -> str:
    """Why pickled weights are refused, and the safe route."""
    return (
        f"{path}: is a pickle, which can run any program when it is read; wanted safetensors: take the "
        "model's model.safetensors, or let someone who trusts the file convert it, in transformers with "
        "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)"
    )


def _open_folder(folder: Path) -> Checkpoint:
    from lanner.hf_folder import open_folder  # json costs milliseconds that a GGUF file need not pay

    return open_folder(folder)


def _open_gguf(path: Path) -> Checkpoint:
    gguf = _core.GgufFile(os.fspath(path))
    files = [gguf]
    if gguf.has("split.count") and gguf.get("split.count") != 1:
        files = _open_parts(path, gguf)
        gguf = files[0]
    architecture = gguf.get("general.architecture")
    if not isinstance(architecture, str):
        wrong = "is missing" if architecture is None else f"is a {type(architecture).__name__}, wanted a str"
        raise _core.ModelFileError(f"{gguf.path}: general.architecture {wrong}")
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        mapped = file.file
        for name, t in file.tensors().items():
            if name in tensors:
                raise _core.ModelFileError(f"{file.path}: tensor {name!r:.80} is in another part too")
            tensors[name] = TensorInfo(name, t.shape, t.format, t.n_bytes, t.offset, mapped)
    settings = Settings(gguf.path, architecture, GgufValues(gguf, architecture))
    n_bytes = sum(file.n_bytes for file in files)
    if len(files) > 1:
        _check_n_tensors(gguf, len(tensors))
    return Checkpoint(gguf.path, "gguf", architecture, settings, tensors, n_bytes, gguf=gguf)


def _open_parts(path: Path, given: _core.GgufFile) -> list[_core.GgufFile]:
    """All parts of a split file, the first with the metadata. Names are those that llama.cpp gives."""
    count = given.get("split.count")
    name = _GGUF_PART.fullmatch(path.name)
    if not isinstance(count, int) or not name or int(name[3]) != count:
        raise _core.ModelFileError(
            f"{path}: split.count is {count!r:.80}, which does not fit its name, "
            "wanted NAME-00001-of-0000N.gguf"
        )
    parts = []
    for i in range(count):
        part = path.with_name(f"{name[1]}-{i + 1:05d}-of-{name[3]}.gguf")
        if not part.exists():
            raise _core.ModelFileError(f"{path}: part {i + 1} of {count} is missing, {part.name}")
        gguf = _core.GgufFile(os.fspath(part))
        for key, wanted in (("split.no", i), ("split.count", count)):
            if gguf.get(key) != wanted:
                raise _core.ModelFileError(f"{part}: {key} is {gguf.get(key)!r:.80}, wanted {wanted}")
        parts.append(gguf)
    return parts


def _check_n_tensors(first: _core.GgufFile, n_tensors: int) -> None:
    stated = first.get("split.tensors.count", n_tensors)
    if stated != n_tensors:
        raise _core.ModelFileError(
            f"{first.path}: split.tensors.count is {stated!r:.80}, its parts have {n_tensors} tensors"
        )
