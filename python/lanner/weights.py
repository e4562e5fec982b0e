"""Weights of a model: checked against the shapes that the architecture gives, packed, accounted for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lanner import _core
from lanner._packing import WeightPacker
from lanner._records import dataclass
from lanner.checkpoint import Checkpoint, TensorInfo

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FLOATS = {"f32": "float32", "f16": "float16", "bf16": "uint16"}
"""Formats of one value each, and the NumPy type that holds them; bfloat16 has none of its own."""

QUANTIZE = ("q8_0", "q4_0")
"""Formats that float matrices can be given as they are packed."""

_COMPARED_BYTES = 1 << 20


@dataclass(frozen=True)
class Source:
    """A tensor of the model: its name and the shape that the configuration demands.

    `name` is GGUF's ("blk.3.attn_q.weight"); `Weights` knows what a Hugging Face folder calls it.
    `interleaved` is the head_dim of a GGUF tensor whose rotary pairs are neighbouring rows; packing puts them
    into half-split order, which folders have already. 0 for all others.
    `hf` brings a folder's array into that shape: of the stored type for a matrix (bfloat16 as uint16), of
    float32 for a vector. `index` is the expert, where a tensor holds one matrix (N, K) for each: (E, N, K).
    `rows` are the first and the end of those that are wanted, of all by default.
    """

    name: str
    shape: tuple[int, ...]
    interleaved: int = 0
    hf: Callable[[Any], Any] | None = None
    index: int | None = None
    rows: tuple[int, int] | None = None


class Weights:
    """Takes tensors out of a checkpoint; every tensor must be taken, `finish` says which was not.

    Args:
        checkpoint: the opened model. Pages of its files are given back as their tensors are packed.
        n_threads: threads that pack, the caller's counted; matrices may be used after `packer.wait`.
        names: for a Hugging Face folder, its names by the canonical ones, without ".weight" or ".bias" where
            both have it: {"blk.{}.attn_q": "model.layers.{}.self_attn.q_proj"}, a second {} for the expert.
        quantize: None, or the format that float matrices get if their rows are whole blocks of 32.
        prefix: start of the folder's names that a file saved without its head lacks.
        keeps: whether packed weights are taken from the cache folder, and brought there by `packer.keep`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        n_threads: int,
        names: Mapping[str, str] | None = None,
        quantize: str | None = None,
        prefix: str = "",
        keeps: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self.n_bytes_by_format: dict[str, int] = {}
        self.n_params = 0
        self._names = None if checkpoint.kind == "gguf" else dict(names or {})
        self._quantize = quantize
        self._tensors = checkpoint.tensors
        has_prefix = not self._tensors or any(name.startswith(prefix) for name in self._tensors)
        self._prefix = "" if has_prefix else prefix
        self._taken: dict[str, set[int | None]] = {}
        self.packer = WeightPacker(checkpoint, n_threads, keeps=keeps)

    @property
    def n_bytes(self) -> int:
        """About what all weights will take once they are packed."""
        return sum(self._packed_bytes(info) for info in self._tensors.values())

    @property
    def is_gguf(self) -> bool:
        """Whether the weights come from a GGUF file."""
        return self._names is None

    def skip(self, *names: str) -> None:
        """Tensors that the model may have and that this configuration of it does not use."""
        for name in map(self._name, names):
            if name in self._tensors:
                self._taken[name] = {None}

    def name(self, name: str) -> str:
        """What the file calls a canonical name, for errors."""
        return self._name(name)

    def has(self, name: str) -> bool:
        """Whether the model has a tensor of this canonical name."""
        return self._name(name, None) in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor that must exist, slowest dimension first."""
        return self._tensor(self._name(name, None)).shape

    def n_rows(self, name: str) -> int:
        """Rows of a matrix that must exist."""
        if len(shape := self.shape(name)) != 2:
            raise _core.ModelFileError(
                f"{self.checkpoint.path}: tensor {self._name(name)!r} has shape {shape}, wanted a matrix"
            )
        return shape[0]

    def packed(self, *sources: Source, keep: bool = False) -> _core.Packed:
        """The fused weight of several (N, K) tensors, in their order; `keep` leaves their formats alone."""
        parts = [self._part(source, keep) for source in sources]
        names = ", ".join(repr(self._name(source.name, source.index)) for source in sources)
        return self.packer.pack(parts, names)

    def vector(self, source: Source) -> memoryview[float]:
        """A float32 vector or table, such as the weight of a norm; finite."""
        info, shape, offset = self._take(source)
        self._check_format(info, FLOATS)
        try:
            values = info.file.floats(offset, math.prod(shape), info.format)
        except _core.ModelFileError:
            raise _core.ModelFileError(
                f"{self.checkpoint.path}: tensor {info.name!r} holds an infinite or NaN value"
            ) from None
        if source.hf is not None and self._names is not None:
            import numpy as np

            array = self._viewed(source, np.frombuffer(values, np.float32).reshape(shape))
            values = self._shaped(source, array.astype(np.float32)).tobytes()
        return memoryview(values).cast("f", source.shape)

    def head(
        self, source: Source, embedding: _core.Packed, is_tied: bool, tok: str = "token_embd.weight"
    ) -> _core.Packed:
        """The head, which a model that ties it shares with its embedding, the tensor `tok`.

        A folder may store a tied head all the same; it is used where its values are others.
        """
        if not is_tied or (self.has(source.name) and not self.are_equal(source.name, tok)):
            return self.packed(source)
        self.skip(source.name)
        return embedding

    def are_equal(self, name: str, other: str) -> bool:
        """Whether two tensors that must exist have the same shape, format and bytes."""
        a, b = self._tensor(self._name(name)), self._tensor(self._name(other))
        if (a.shape, a.format) != (b.shape, b.format):
            return False
        x, y = a.file.range(a.offset, a.n_bytes), b.file.range(b.offset, b.n_bytes)
        starts = range(0, a.n_bytes, _COMPARED_BYTES)
        same = all(bytes(x[i : i + _COMPARED_BYTES]) == bytes(y[i : i + _COMPARED_BYTES]) for i in starts)
        for info in (a, b):
            info.file.release(info.offset, info.n_bytes)
        return same

    def finish(self, ignored: Iterable[str] = ()) -> None:
        """Refuse a file with tensors that the architecture did not ask for: their effect would be missing.

        ignored: patterns (as in `fnmatch`) of a folder's names that have none, such as stored masks.
        """
        for name, indices in self._taken.items():
            if indices != {None} and len(indices) < (n := self._tensors[name].shape[0]):
                raise _core.UnsupportedModelError(
                    f"{self.checkpoint.path}: tensor {name!r:.80} has {n} experts, {len(indices)} are used"
                )
        left = sorted(self._tensors.keys() - self._taken.keys())
        if left and self._names is not None:
            from fnmatch import fnmatchcase

            left = [name for name in left if not any(fnmatchcase(name, pattern) for pattern in ignored)]
        if left:
            raise _core.UnsupportedModelError(
                f"{self.checkpoint.path}: {len(left)} tensors that this architecture does not use, "
                f"such as {', '.join(f'{name!r:.80}' for name in left[:3])}"
            )

    # --- names ----------------------------------------------------------------------------------------------
    def _name(self, name: str, index: int | None = None) -> str:
        """What the file calls a canonical name."""
        if self._names is None:
            return name
        layer = re.search(r"\.(\d+)\.", name)
        generic = name.replace(layer[0], ".{}.", 1) if layer else name
        stem, dot, suffix = generic.rpartition(".")
        found = self._names.get(generic)
        if found is None:
            found = self._names.get(stem)
            if found is None:
                return name
            found += dot + suffix
        numbers = ([layer[1]] if layer else []) + ([] if index is None else [str(index)])
        for number in numbers:
            found = found.replace("{}", number, 1)
        return found.removeprefix(self._prefix)

    def _tensor(self, name: str) -> TensorInfo:
        if name not in self._tensors:
            raise _core.ModelFileError(f"{self.checkpoint.path}: tensor {name!r} is missing")
        return self._tensors[name]

    # --- what a tensor becomes ------------------------------------------------------------------------------
    def _take(self, source: Source) -> tuple[TensorInfo, tuple[int, ...], int]:
        """The tensor of a source, and the shape and offset of its part; the shape is the wanted one."""
        info = self._tensor(self._name(source.name, source.index))
        shape, offset, index = info.shape, info.offset, None
        if source.index is not None and len(shape) == len(source.shape) + 1 and source.index < shape[0]:
            index = source.index
            shape, offset = shape[1:], offset + index * (info.n_bytes // shape[0])
        if (1, *shape) == source.shape:  # GGUF drops the leading dimensions of 1
            shape = source.shape
        if (source.hf is None or self._names is None) and shape != source.shape:
            raise _core.ModelFileError(
                f"{self.checkpoint.path}: tensor {info.name!r} has shape {info.shape}, "
                f"the configuration wants {source.shape}"
            )
        if info.name not in self._taken:
            format = self._packed_format(info)
            self.n_params += math.prod(info.shape)
            self.n_bytes_by_format[format] = self.n_bytes_by_format.get(format, 0) + self._packed_bytes(info)
        self._taken.setdefault(info.name, set()).add(index)
        return info, shape, offset

    def _part(self, source: Source, keep: bool) -> tuple[Any, int, str, int, int, int, str]:
        """A source as `Packed.from_files` takes it."""
        info, shape, offset = self._take(source)
        self._check_format(info, FLOATS if self._names is not None else _core.array.FORMATS)
        if len(source.shape) != 2:
            raise ValueError(f"packed: {source.name} has shape {source.shape}, wanted a matrix")
        data: Any = info.file
        if source.hf is not None and self._names is not None:
            data, offset = self._shaped(source, self._viewed(source, self._array(info, shape, offset))), 0
            info.file.release(info.offset, info.n_bytes)
        interleaved = source.interleaved if self._names is None else 0
        n_rows, k = source.shape
        if source.rows is not None:
            row_bytes = info.n_bytes // n_rows
            offset, n_rows = offset + source.rows[0] * row_bytes, source.rows[1] - source.rows[0]
        format = info.format if keep else self._target(info.format, k)
        return data, offset, info.format, n_rows, k, interleaved, format

    def _check_format(self, info: TensorInfo, known: Container[str]) -> None:
        if info.format not in known:
            raise _core.UnsupportedModelError(
                f"{self.checkpoint.path}: tensor {info.name!r} is {info.format}, "
                f"wanted one of {', '.join(FLOATS)}"
            )

    def _array(self, info: TensorInfo, shape: tuple[int, ...], offset: int) -> npt.NDArray[Any]:
        import numpy as np

        dtype = np.dtype(FLOATS[info.format])
        data = np.frombuffer(info.file.range(offset, math.prod(shape) * dtype.itemsize), dtype)
        return data.reshape(shape)

    def _viewed(self, source: Source, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What `hf` of a source makes of a folder's array."""
        assert source.hf is not None
        try:
            viewed: npt.NDArray[Any] = source.hf(array)
        except ValueError:
            raise _core.ModelFileError(
                f"{self.checkpoint.path}: tensor {self._name(source.name, source.index)!r} has shape "
                f"{array.shape}, which does not make the {source.shape} that the configuration wants"
            ) from None
        return viewed

    def _shaped(self, source: Source, array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """The bytes of an array that has the shape of its source."""
        import numpy as np

        if array.shape != source.shape:
            raise _core.ModelFileError(
                f"{self.checkpoint.path}: tensor {self._name(source.name, source.index)!r} gives shape "
                f"{array.shape}, the configuration wants {source.shape}"
            )
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def _target(self, format: str, k: int) -> str:
        return self._quantize if self._quantize and format in FLOATS and k % _core.BLOCK == 0 else format

    def _packed_format(self, info: TensorInfo) -> str:
        return self._target(info.format, info.shape[-1]) if len(info.shape) > 1 else info.format

    def _packed_bytes(self, info: TensorInfo) -> int:
        format = self._packed_format(info)
        if format == info.format:
            return info.n_bytes
        block, n_bytes = _core.array.FORMATS[format]
        return math.prod(info.shape) // int(block) * int(n_bytes)
