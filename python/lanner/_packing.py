"""Packing of a model's weights: in threads of its own while the model is assembled, and kept for next time.

Memory that nobody has touched yet is dear, on virtual machines above all, and packed weights fill as much of
it as the file has. So they are kept in the cache folder and mapped from there: what is in the page cache
costs nothing to fill, and all processes share it.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from lanner import _core
from lanner._cache import cache_folder, locked_if_free

if TYPE_CHECKING:
    from pathlib import Path

    from lanner.checkpoint import Checkpoint

Part = tuple[Any, int, str, int, int, int, str]
"""What `_core.Packed.from_files` takes of one tensor."""

LEAST_BYTES = 32 << 20
"""Of a model whose packed weights are kept: less is packed within 20 ms."""

MOST_BYTES = 8 << 30
"""Of all packed weights that are kept, those used longest ago go first; models above half of it are not."""


class WeightPacker:
    """Packs weights of a checkpoint into one reservation; none may be used before `wait`.

    `n_threads` counts the caller, who takes part in `wait`. Whoever drops it waits for what has begun.
    With `keeps`, weights that the cache folder has of the same files are mapped; see `keep`.
    """

    def __init__(self, checkpoint: Checkpoint, n_threads: int, *, keeps: bool = False) -> None:
        self._path = checkpoint.path
        self._n_threads = n_threads
        self._n_bytes = checkpoint.n_bytes
        self._kept = kept_path(checkpoint) if keeps else None
        self._found = _file_number(self._kept)
        self._pid = os.getpid()
        # Packed weights are as large as the file's, but for rows that are padded to whole panels.
        self._arena = _core.Arena(checkpoint.n_bytes + checkpoint.n_bytes // 16)
        if self._kept is None:
            self._packer = _core.Packer(n_threads)
        else:
            self._packer = _core.Packer(n_threads, str(self._kept), _subject(checkpoint))
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
        kept, self._kept = self._kept, None  # of a model that is refused here, nothing is
        for index, error in self._packer.finish():
            raise self._error(names[index], error)
        self._kept = kept
        if kept is not None and self._packer.is_complete:
            with contextlib.suppress(OSError):
                os.utime(kept)

    def keep(self) -> None:
        """Writes what was packed to the cache folder, unless that has it; what fails costs only time.

        Nothing in a child after fork, nor while another process writes to the folder, nor where another has
        written the same since this one looked.
        """
        if self._kept is None or self._packer.is_complete or os.getpid() != self._pid:
            return
        folder = self._kept.parent
        with (
            contextlib.suppress(OSError, MemoryError),
            locked_if_free(folder.with_suffix(".lock")) as is_locked,
        ):
            if not is_locked or _file_number(self._kept) not in (None, self._found):
                return
            folder.mkdir(mode=0o700, exist_ok=True)
            for abandoned in folder.glob("*.tmp"):  # by a process that was killed: nobody else writes now
                abandoned.unlink()
            if free_bytes(folder) >= 2 * self._n_bytes:
                self._packer.keep()
                make_room(self._kept)

    def _error(self, names: str, error: str) -> _core.ModelFileError:
        return _core.ModelFileError(f"{self._path}: tensor {names}: {error}")


def kept_path(checkpoint: Checkpoint) -> Path | None:
    """Where the packed weights of a GGUF file are kept; None where they are not.

    One place for each path of a model: what is kept of a file that is gone makes room for its successor.
    """
    wanted = os.environ.get("LANNER_KEEP_PACKED", "1")
    if wanted not in ("0", "1"):
        raise ValueError(f"load: LANNER_KEEP_PACKED is {wanted!r:.80}, wanted 0 or 1")
    if wanted == "0" or checkpoint.gguf is None or not LEAST_BYTES <= checkpoint.n_bytes <= MOST_BYTES // 2:
        return None
    if not _core.LIBRARY_STATE:
        return None
    try:
        path = os.path.abspath(checkpoint.path)
        folder = cache_folder() / f"packed-{os.geteuid()}"  # what others have written is not used
    except (OSError, RuntimeError):  # there is no current folder any more, or no home
        return None
    return folder / f"{os.path.basename(path)[:80]}-{_core.checksum(os.fsencode(path)):016x}"


def _subject(checkpoint: Checkpoint) -> str:
    """What packed weights depend on: the files as they were mapped, and the library as it was loaded."""
    files = {tensor.file.path: tensor.file for tensor in checkpoint.tensors.values()}
    lines = [_core.LIBRARY_STATE]
    for path, file in sorted(files.items()):
        n_header = min(tensor.offset for tensor in checkpoint.tensors.values() if tensor.file.path == path)
        lines.append(f"{file.state} {_core.checksum(file.range(0, n_header)):016x}")
    return "\n".join(lines)


def _file_number(path: Path | None) -> int | None:
    try:
        return path.stat().st_ino if path is not None else None
    except OSError:
        return None


def free_bytes(folder: Path) -> int:
    """That the user may write; what is kept leaves as much again as it takes."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def make_room(newest: Path) -> None:
    """Removes kept weights beside the newest ones, those used longest ago first, until all are few enough."""
    others = [(other.stat().st_mtime, other) for other in newest.parent.iterdir() if other != newest]
    total = newest.stat().st_size
    for _, other in sorted(others, reverse=True):
        total += other.stat().st_size
        if total > MOST_BYTES:
            other.unlink()
