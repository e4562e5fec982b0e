"""What the operating system tells about the machine: processor, cores, limits, memory."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import sys
from pathlib import Path

_CGROUP_ROOT = Path("/sys/fs/cgroup")


def _read(path: Path) -> str | None:
    """A small system file as text, or None where this system has no such file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)
    except OSError:
        return None


def cpu_name() -> str:
    """The processor's own name, or the architecture where the system does not tell."""
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "Hardware") and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def n_affinity() -> int:
    """Logical processors on which this process may run."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def n_physical_cores(topology: Path = Path("/sys/devices/system/cpu")) -> int | None:
    """Physical cores among the processors this process may run on, or None where the system does not tell."""
    if sys.platform != "linux":
        return None
    cores = set()
    for cpu in os.sched_getaffinity(0):
        folder = topology / f"cpu{cpu}" / "topology"
        # The siblings name a core uniquely over all sockets; core_id alone repeats on each socket.
        siblings = _read(folder / "core_cpus_list") or _read(folder / "thread_siblings_list")
        if not siblings:
            return None
        cores.add(siblings.strip())
    return len(cores)


def last_level_cache_bytes(cpu0: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Size of the largest cache that the first processor can use; 0 where the system does not tell."""
    largest = 0
    for index in range(8):
        size = (_read(cpu0 / f"index{index}" / "size") or "").strip()
        unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(size[-1:], 1)
        digits = size.rstrip("KMG")
        largest = max(largest, int(digits) * unit if digits.isdigit() else 0)
    return largest


def _quota_v2(folder: Path) -> float | None:
    fields = (_read(folder / "cpu.max") or "").split()
    if len(fields) == 2 and fields[0].isdigit() and fields[1].isdigit() and int(fields[1]) > 0:
        return int(fields[0]) / int(fields[1])
    return None  # "max 100000" is no limit


def _quota_v1(folder: Path) -> float | None:
    quota = (_read(folder / "cpu.cfs_quota_us") or "").strip()
    period = (_read(folder / "cpu.cfs_period_us") or "").strip()
    if quota.isdigit() and period.isdigit() and int(period) > 0:
        return int(quota) / int(period)
    return None  # -1 is no limit


def cgroup_quota(root: Path = _CGROUP_ROOT, membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """Processors that the control groups grant (1.5 is one and a half), or None without a limit.

    Every ancestor limits its children, so the smallest of the hierarchy counts. In a container the path in
    `membership` may lie outside of what is mounted; then the mounted root is the container's own group.
    """
    quotas: list[float | None] = []
    for line in (_read(membership) or "").splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        _, controllers, group = parts
        if controllers == "":
            mounts, quota_of = [root, root / "unified"], _quota_v2
        elif "cpu" in controllers.split(","):
            mounts, quota_of = [root / "cpu", root / controllers], _quota_v1
        else:
            continue
        names = [name for name in group.split("/") if name not in ("", ".", "..")]
        for mount in mounts:
            quotas += [quota_of(mount.joinpath(*names[:depth])) for depth in range(len(names) + 1)]
    return min((quota for quota in quotas if quota), default=None)


def default_threads() -> tuple[int, list[tuple[str, str]]]:
    """The number of threads that suits this process, and each limit considered: (what, how many).

    It is min(affinity mask, floor of the control groups' quota, physical cores), and at least 1.
    """
    affinity, quota, physical = n_affinity(), cgroup_quota(), n_physical_cores()
    limits = [affinity]
    if quota is not None:
        limits.append(max(1, math.floor(quota)))
    if physical is not None:
        limits.append(physical)
    reasons = [
        ("logical processors", str(os.cpu_count() or "unknown")),
        ("affinity mask", str(affinity)),
        ("control group quota", "none" if quota is None else f"{quota:g}"),
        ("physical cores", "unknown" if physical is None else str(physical)),
    ]
    return max(1, min(limits)), reasons


def memory_bytes() -> tuple[int, int] | None:
    """(total, available) bytes of main memory, or None where the system does not tell."""
    fields: dict[str, int] = {}
    for line in (_read(Path("/proc/meminfo")) or "").splitlines():
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
