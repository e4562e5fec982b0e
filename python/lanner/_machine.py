"""What the operating system tells about the machine: processor, cores, limits, memory."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

from lanner._threads import read_text


def cpu_name() -> str:
    """The processor's own name, or the architecture where the system does not tell."""
    for line in (read_text(Path("/proc/cpuinfo")) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "Hardware") and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def last_level_cache_bytes(cpu0: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Size of the largest cache that the first processor can use; 0 where the system does not tell."""
    largest = 0
    for index in range(8):
        size = (read_text(cpu0 / f"index{index}" / "size") or "").strip()
        unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(size[-1:], 1)
        digits = size.rstrip("KMG")
        largest = max(largest, int(digits) * unit if digits.isdigit() else 0)
    return largest


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
    # MEMORYSTATUSEX: two 32-bit fields (its own length, load), then seven 64-bit ones; total, then available.
    status = (ctypes.c_uint64 * 8)()
    ctypes.cast(status, ctypes.POINTER(ctypes.c_uint32))[0] = ctypes.sizeof(status)
    kernel32 = getattr(ctypes, "windll").kernel32  # noqa: B009  (the attribute exists on Windows alone)
    return (status[1], status[2]) if kernel32.GlobalMemoryStatusEx(status) else None
