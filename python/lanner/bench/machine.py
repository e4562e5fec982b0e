"""The machine while it is measured: its limits, and who else is using it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lanner import _core
from lanner._machine import last_level_cache_bytes
from lanner._memory import available_bytes
from lanner._threads import read_text
from lanner.bench.cases import Limit

RESTRICTING = ("OPENBLAS_", "GOTO_", "OMP_", "GOMP_", "KMP_", "MKL_", "ATEN_CPU_", "ONEDNN_", "DNNL_")
"""Beginnings of environment variables that choose kernels or threads for NumPy's BLAS and for PyTorch."""

OTHERS_SHARE = 0.05
"""Share of the machine that other programs may take; the clock that tells ticks every 10 ms."""

STOLEN_SHARE = 0.01
"""Share of the machine that a hypervisor may give to somebody else."""

SPREAD = 1.15
"""How far the largest and the least probe of one limit may lie apart."""


def environment(n_threads: int) -> dict[str, str]:
    """This process's environment, in which NumPy and PyTorch use `n_threads` and whatever kernels they like.

    Both read it when they are imported: it is for a child process.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(RESTRICTING)}
    return kept | dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), str(n_threads))


class Limits:
    """What `n_threads` threads do per second here, probed again and again during a run.

    read: bytes read from memory. copy: bytes read plus bytes written, past the caches where the instruction
    set can. fma: float32 multiply-adds. The best of all probes counts: a limit is what can be reached.
    """

    def __init__(self, n_threads: int, *, quick: bool = False) -> None:
        self.n_threads = n_threads
        self.probes: dict[Limit, list[float]] = {"read": [], "copy": [], "fma": []}
        available = available_bytes() or 1 << 30
        # Eight times the last cache, so that at most an eighth is found there; 256 MiB do where a virtual
        # machine names a cache that it shares.
        wanted = min(max(8 * last_level_cache_bytes(), 64 << 20), 256 << 20)
        self._n_bytes = max(16 << 20, min(64 << 20 if quick else wanted, available // 4))
        self._n_runs = 2 if quick else 5

    def probe(self, limits: Iterable[Limit] = ("read", "copy", "fma")) -> None:
        """Measure once more."""
        for limit in limits:
            if limit == "read":
                rate = _core.probe_read_bandwidth(self.n_threads, self._n_bytes, self._n_runs)
            elif limit == "copy":
                rate = _core.probe_copy_bandwidth(self.n_threads, self._n_bytes, self._n_runs)
            else:
                rate = _core.probe_fma(self.n_threads, self._n_runs)
            self.probes[limit].append(rate)

    def best(self) -> dict[Limit, float]:
        """The limits, from all probes so far."""
        return {limit: max(rates) for limit, rates in self.probes.items() if rates}


@dataclass(frozen=True)
class Usage:
    """Seconds since some start: of the wall clock, of busy processors, stolen, of this process."""

    wall: float
    busy: float
    stolen: float
    own: float

    @staticmethod
    def now() -> Usage:
        """The clocks; what the system does not tell is 0."""
        fields = (read_text(Path("/proc/stat")) or "").partition("\n")[0].split()[1:9]
        own, wall = time.process_time(), time.perf_counter()
        if len(fields) < 8 or not all(map(str.isdigit, fields)):
            return Usage(wall, 0.0, 0.0, own)
        user, nice, system, _idle, _iowait, irq, softirq, steal = (
            int(f) / os.sysconf("SC_CLK_TCK") for f in fields
        )
        return Usage(wall, user + nice + system + irq + softirq, steal, own)

    def since(self, start: Usage) -> Usage:
        """What has passed."""
        return Usage(
            self.wall - start.wall, self.busy - start.busy, self.stolen - start.stolen, self.own - start.own
        )


def disturbances(used: Usage, n_processors: int | None = None) -> list[str]:
    """What the rest of the world did while something was measured, a sentence for each that matters."""
    capacity = max(used.wall, 1e-9) * (n_processors or os.cpu_count() or 1)
    others, stolen = (used.busy - used.own) / capacity, used.stolen / capacity
    found = []
    if others > OTHERS_SHARE and used.busy - used.own > 0.03:  # three ticks are more than rounding
        found.append(f"other programs used {others:.0%} of the machine")
    if stolen > STOLEN_SHARE and used.stolen > 0.02:
        found.append(f"{stolen:.0%} of the machine was stolen by its host")
    return found


def unsteady(probes: Mapping[Limit, list[float]]) -> list[str]:
    """Limits that were not the same during the run."""
    found = []
    for limit, rates in probes.items():
        if rates and max(rates) > SPREAD * min(rates):
            found.append(
                f"the {limit} limit fell to {min(rates) / max(rates):.0%} of its best during the run"
            )
    return found


def load_average() -> float:
    """Of the last minute; 0 where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return 0.0
