"""Packing of a model's weights, in threads of its own while the model is assembled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanner import _core

if TYPE_CHECKING:
    from lanner.checkpoint import Checkpoint

Part = tuple[Any, int, str, int, int, int, str]
"""What `_core.Packed.from_files` takes of one tensor."""


class WeightPacker:
    """Packs weights of a checkpoint into one reservation; none may be used before `wait`.

    `n_threads` counts the caller, who takes part in `wait`. Whoever drops it waits for what has begun.
    """

    def __init__(self, checkpoint: Checkpoint, n_threads: int) -> None:
        self._path = checkpoint.path
        self._n_threads = n_threads
        # Packed weights are as large as the file's, but for rows that are padded to whole panels.
        self._arena = _core.Arena(checkpoint.n_bytes + checkpoint.n_bytes // 16)
        self._packer = _core.Packer(n_threads)
        self._names: list[str] = []  # of what the packer has

    def pack(self, parts: list[Part], names: str) -> _core.Packed:
        """The fused weight of some tensors, which errors call `names`; of arrays it is packed at once."""
        are_files = all(isinstance(part[0], _core.MappedFile) for part in parts)
        try:
            packed = _core.Packed.from_files(
                parts,
                n_threads=self._n_threads,
                arena=self._arena,
                packer=self._packer if are_files else None,
            )
        except (_core.ModelFileError, ValueError) as error:
            raise self._error(names, str(error)) from error
        if are_files:
            self._names.append(names)
        return packed

    def wait(self) -> None:
        """Returns once all weights are packed; ModelFileError for one that holds what is not finite."""
        names, self._names = self._names, []
        for index, error in self._packer.finish():
            raise self._error(names[index], error)

    def _error(self, names: str, error: str) -> _core.ModelFileError:
        return _core.ModelFileError(f"{self._path}: tensor {names}: {error}")
