"""How many threads this process should use: what the scheduler, the cores and the container grant."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_MEMBERSHIP = Path("/proc/self/cgroup")


def read_text(path: Path) -> str | None:
    """A small system file as text, or None where this system has no such file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)
    except OSError:
        return None


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
        siblings = read_text(folder / "core_cpus_list") or read_text(folder / "thread_siblings_list")
        if not siblings:
            return None
        cores.add(siblings.strip())
    return len(cores)


def _quota_v2(folder: Path) -> float | None:
    fields = (read_text(folder / "cpu.max") or "").split()
    if len(fields) == 2 and fields[0].isdigit() and fields[1].isdigit() and int(fields[1]) > 0:
        return int(fields[0]) / int(fields[1])
    return None  # "max 100000" is no limit


def _quota_v1(folder: Path) -> float | None:
    quota = (read_text(folder / "cpu.cfs_quota_us") or "").strip()
    period = (read_text(folder / "cpu.cfs_period_us") or "").strip()
    if quota.isdigit() and period.isdigit() and int(period) > 0:
        return int(quota) / int(period)
    return None  # -1 is no limit


def cgroup_folders(controller: str, root: Path, membership: Path) -> Iterator[tuple[int, Path]]:
    """Version (1 or 2) and folder of the control groups that this process is in, with all their ancestors.

    In a container the path in `membership` may lie outside of what is mounted; then the mounted root is the
    container's own group.
    """
    for line in (read_text(membership) or "").splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        _, controllers, group = parts
        if controllers == "":
            version, mounts = 2, [root, root / "unified"]
        elif controller in controllers.split(","):
            version, mounts = 1, [root / controller, root / controllers]
        else:
            continue
        names = [name for name in group.split("/") if name not in ("", ".", "..")]
        for mount in mounts:
            for depth in range(len(names) + 1):
                yield version, mount.joinpath(*names[:depth])


def cgroup_quota(root: Path = CGROUP_ROOT, membership: Path = CGROUP_MEMBERSHIP) -> float | None:
    """Processors that the control groups grant (1.5 is one and a half), or None without a limit.

    Every ancestor limits its children, so the smallest of the hierarchy counts.
    """
    quotas = [
        _quota_v2(folder) if version == 2 else _quota_v1(folder)
        for version, folder in cgroup_folders("cpu", root, membership)
    ]
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
