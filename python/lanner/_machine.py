"""What the operating system tells about the processor."""

from __future__ import annotations

import platform
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
