"""The user's cache folder, and the lock that keeps two processes from working on one thing in it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_LOCK_POLL_S = 0.1  # a waiting process notices within a tenth of a second, and stays interruptible


def cache_folder() -> Path:
    """The folder that holds models and measurements: `LANNER_CACHE`, else the platform's own. Not created."""
    if chosen := os.environ.get("LANNER_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "lanner"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "lanner"
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification says that a relative path is invalid and to be ignored.
    return (Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache") / "lanner"


def write_atomically(path: Path, text: str) -> None:
    """Replaces `path` by `text` (UTF-8): a reader sees the old file or the new one, never a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _try_lock(fd: int) -> bool:
    """Takes the lock on an open file without waiting; the system drops it when the process ends, however."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds the lock file `path`, alone among processes and threads; calls `waiting` until it is free."""
    with _opened(path) as fd:
        while not _try_lock(fd):
            waiting()
            time.sleep(_LOCK_POLL_S)
        yield


@contextlib.contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Like `locked`, without waiting: gives whether the lock is held."""
    with _opened(path) as fd:
        yield _try_lock(fd)
