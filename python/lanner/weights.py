"""Weights of a model: checked against the shapes that the architecture gives, packed, accounted for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from lanner import _core


@dataclass(frozen=True)
class Source:
    """A tensor of the file: its name and the shape that the configuration demands.

    `interleaved` is the head_dim of a tensor whose rotary pairs are neighbouring rows; packing puts them into
    half-split order. 0 for all others.
    """

    name: str
    shape: tuple[int, ...]
    interleaved: int = 0


class Weights:
    """Takes tensors out of a GGUF file; every tensor must be taken, `finish` says which was not.

    Args:
        gguf: the mapped file. Its pages are given back as its tensors are packed.
        n_threads: threads that pack.
    """

    def __init__(self, gguf: _core.GgufFile, n_threads: int) -> None:
        self.gguf = gguf
        self.n_threads = n_threads
        self.n_bytes_by_format: dict[str, int] = {}
        self.n_params = 0
        self._tensors = gguf.tensors()
        self._taken: set[str] = set()
        # Packed weights are as large as the file's, but for rows that are padded to whole panels.
        self._arena = _core.Arena(gguf.n_bytes + gguf.n_bytes // 16)

    def has(self, name: str) -> bool:
        """Whether the file has a tensor of this name."""
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor that must exist, slowest dimension first."""
        return self._tensor(name).shape

    def packed(self, *sources: Source) -> _core.Packed:
        """The fused weight of several (N, K) tensors, in their order."""
        for source in sources:
            self._check(source)
        parts = [(source.name, source.interleaved) for source in sources]
        try:
            return _core.Packed.from_gguf(self.gguf, parts, n_threads=self.n_threads, arena=self._arena)
        except (_core.ModelFileError, ValueError) as error:
            names = ", ".join(repr(source.name) for source in sources)
            raise _core.ModelFileError(f"{self.gguf.path}: tensor {names}: {error}") from error

    def vector(self, source: Source) -> memoryview[float]:
        """A float32 vector, such as the weight of a norm; finite."""
        info = self._check(source)
        if info.format != "f32":
            raise _core.UnsupportedModelError(
                f"{self.gguf.path}: tensor {source.name!r} is {info.format}, wanted f32"
            )
        values = memoryview(self.gguf.tensor_bytes(source.name)).cast("f")
        if not all(map(math.isfinite, values)):
            raise _core.ModelFileError(
                f"{self.gguf.path}: tensor {source.name!r} holds an infinite or NaN value"
            )
        return values

    def finish(self, ignored: Iterable[str] = ()) -> None:
        """Refuse a file with tensors that the architecture did not ask for: their effect would be missing."""
        left = sorted(set(self._tensors) - self._taken - set(ignored))
        if left:
            raise _core.UnsupportedModelError(
                f"{self.gguf.path}: {len(left)} tensors that this architecture does not use, "
                f"such as {', '.join(map(repr, left[:3]))}"
            )

    def _tensor(self, name: str) -> _core.TensorInfo:
        if name not in self._tensors:
            raise _core.ModelFileError(f"{self.gguf.path}: tensor {name!r} is missing")
        return self._tensors[name]

    def _check(self, source: Source) -> _core.TensorInfo:
        info = self._tensor(source.name)
        if info.shape != source.shape:
            raise _core.ModelFileError(
                f"{self.gguf.path}: tensor {source.name!r} has shape {info.shape}, "
                f"the configuration wants {source.shape}"
            )
        if source.name not in self._taken:
            self._taken.add(source.name)
            self.n_params += math.prod(info.shape)
            self.n_bytes_by_format[info.format] = self.n_bytes_by_format.get(info.format, 0) + info.n_bytes
        return info
