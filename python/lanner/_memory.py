"""How much main memory there is, and how much of it the system and the container grant to this process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lanner._threads import CGROUP_MEMBERSHIP, CGROUP_ROOT, cgroup_folders, read_text


def memory_bytes() -> tuple[int, int] | None:
    """(total, available) bytes of main memory, or None where the system does not tell."""
    fields: dict[str, int] = {}
    for line in (read_text(Path("/proc/meminfo")) or "").splitlines():
        key, _, value = line.partition(":")
        number = value.split()[:1]
        if number and number[0].isdigit():
            fields[key] = int(number[0]) * 1024
    if "MemTotal" in fields:
        return fields["MemTotal"], fields.get("MemAvailable", 0)
    return _memory_windows() if sys.platform == "win32" else _memory_sysconf()


def _memory_sysconf() -> tuple[int, int] | None:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    return total, 0


def _memory_windows() -> tuple[int, int] | None:
    import ctypes

    # MEMORYSTATUSEX: two 32-bit fields (its own length, load), then seven 64-bit ones; total, then available.
    status = (ctypes.c_uint64 * 8)()
    ctypes.cast(status, ctypes.POINTER(ctypes.c_uint32))[0] = ctypes.sizeof(status)
    kernel32 = getattr(ctypes, "windll").kernel32  # noqa: B009  (the attribute exists on Windows alone)
    return (status[1], status[2]) if kernel32.GlobalMemoryStatusEx(status) else None


def _fields(path: Path) -> dict[str, int]:
    """Numbers by name, from a file with a name and a number in each line."""
    lines = [line.split() for line in (read_text(path) or "").splitlines()]
    return {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdigit()}


def _number(path: Path) -> int | None:
    text = (read_text(path) or "").strip()
    return int(text) if text.isdigit() else None  # "max" is no limit


def cgroup_memory(root: Path = CGROUP_ROOT, membership: Path = CGROUP_MEMBERSHIP) -> int | None:
    """Bytes that the control groups still grant, or None without a limit.

    Every ancestor limits its children. Cached files that nobody has used lately make room when it is needed.
    """
    rest = []
    for version, folder in cgroup_folders("memory", root, membership):
        names = ("max", "current") if version == 2 else ("limit_in_bytes", "usage_in_bytes")
        limit, used = (_number(folder / f"memory.{name}") for name in names)
        if limit is not None and used is not None:
            stat = _fields(folder / "memory.stat")
            idle = stat.get("inactive_file" if version == 2 else "total_inactive_file", 0)
            rest.append(max(0, limit - used + min(idle, used)))
    return min(rest, default=None)


def available_bytes() -> int | None:
    """Bytes of memory that this process may still take, or None where the system does not tell."""
    total, available = memory_bytes() or (0, 0)
    known = [n for n in (available or total or None, cgroup_memory()) if n is not None]
    return min(known, default=None)
