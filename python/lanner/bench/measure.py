"""Takes turns between contenders and keeps what it saw."""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lanner import _core, ops
from lanner._machine import cpu_name, last_level_cache_bytes
from lanner.bench.cases import Case
from lanner.bench.contenders import OURS, Call, contenders, works
from lanner.bench.machine import Limits, Usage, disturbances, load_average, unsteady
from lanner.bench.results import Result, Run

TAIL = 1.25
"""How far the 90th percentile of our own times may lie above their median."""

FALLEN = 0.87
"""Share of the best probe of a limit that the probe beside a case must reach."""

SETTLED_S = 0.012
"""How long this process must have been at rest before a turn. The kernel counts the time of a thread that
runs all along once a tick, of 10 ms at most."""

PATIENCE_S = 0.2
"""The longest wait for that. OpenBLAS's threads look for work for 30 ms after a product, OpenMP's for 5."""


@dataclass(frozen=True)
class Effort:
    """How long a case is measured: `rounds` turns of every contender, each of at least `turn_s` seconds."""

    rounds: int = 11
    turn_s: float = 0.02


QUICK = Effort(3, 0.002)


class Turns:
    """The contenders of one case, each with the number of calls that fill a turn."""

    def __init__(self, calls: Mapping[str, Call], turn_s: float) -> None:
        # The first call: first touch of its memory, its threads. What ours raises, the next one raises again.
        self.calls = {name: call for name, call in calls.items() if works(call) or name == OURS}
        self.repeats = {name: self._repeats(call, turn_s) for name, call in self.calls.items()}

    @staticmethod
    def _repeats(call: Call, turn_s: float) -> int:
        start = time.perf_counter()
        call()
        return max(1, math.ceil(turn_s / max(time.perf_counter() - start, 1e-7)))

    def prepare(self, name: str) -> None:
        """Wait until the last contender's threads rest, then wake this one's and fill the caches."""
        settle()
        self.calls[name]()

    def run(self, name: str) -> None:
        """The calls of a turn."""
        call = self.calls[name]
        for _ in range(self.repeats[name]):
            call()

    def take(self, name: str) -> float:
        """A turn: seconds per call."""
        self.prepare(name)
        start = time.perf_counter()
        self.run(name)
        return (time.perf_counter() - start) / self.repeats[name]


def settle() -> None:
    """Waits until no thread of this process computes: the pool of a library spins after its last call."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        before = time.process_time()
        time.sleep(SETTLED_S)
        if time.process_time() - before < 0.2 * SETTLED_S:
            return


class Comparison:
    """One case, its contenders and the machine beside them.

    Use: `peers()` and then a turn of ours, `effort.rounds` times; then `result(...)`.
    """

    def __init__(self, case: Case, limits: Limits, effort: Effort, torch: Any = None) -> None:
        self.case, self.effort = case, effort
        self._limits = limits
        limits.probe((case.limit,))
        self.turns = Turns(contenders(case, torch), effort.turn_s)
        self.samples: dict[str, list[float]] = {name: [] for name in self.turns.calls}
        self._start = Usage.now()

    def peers(self) -> None:
        """A turn of each peer."""
        for name in self.turns.calls:
            if name != OURS:
                self.samples[name].append(self.turns.take(name))

    def ours(self) -> None:
        """A turn of ours."""
        self.samples[OURS].append(self.turns.take(OURS))

    def result(self) -> Result:
        """What came out; the limit is that of the probes so far (`finish` puts the run's in its place)."""
        noise = disturbances(Usage.now().since(self._start))
        ours = sorted(self.samples[OURS])
        tail = ours[math.ceil(0.9 * len(ours)) - 1] / statistics.median(ours)
        if tail > TAIL:
            noise.append(f"a tenth of our calls took more than {tail:.2f} times the median")
        rates = self._limits.probes[self.case.limit]
        return Result(
            case=described(self.case),
            samples=self.samples,
            limit_rate=max(rates),
            limit_then=rates[-1],
            fits_cache=self.case.n_bytes <= last_level_cache_bytes(),
            noise=noise,
        )


def described(case: Case) -> dict[str, Any]:
    """A case as JSON has it."""
    return {
        "name": case.name,
        "n_bytes": case.n_bytes,
        **{name: dict(value) if isinstance(value, Mapping) else value for name, value in vars(case).items()},
    }


def measure(case: Case, limits: Limits, effort: Effort, torch: Any = None) -> Result:
    """Contenders take turns: numpy, torch, ours, numpy, ..."""
    comparison = Comparison(case, limits, effort, torch)
    for _ in range(effort.rounds):
        comparison.peers()
        comparison.ours()
    return comparison.result()


def run_cases(
    cases: Sequence[Case],
    n_threads: int,
    effort: Effort,
    torch: Any = None,
    tell: Callable[[Case], object] = lambda case: None,
) -> Run:
    """Measure cases with `n_threads`; `tell` hears of each before it begins."""
    load = load_average()
    use_threads(n_threads, torch)
    limits = Limits(n_threads, quick=effort is QUICK)
    limits.probe()
    results = []
    for case in cases:
        tell(case)
        results.append(measure(case, limits, effort, torch))
    limits.probe()
    return finish(limits, results, load, torch)


def use_threads(n_threads: int, torch: Any = None) -> None:
    """Ours and PyTorch's; NumPy's BLAS has read its number from the environment."""
    ops.set_threads(n_threads)
    if torch:
        torch.set_num_threads(n_threads)


def finish(limits: Limits, results: Sequence[Result], load: float, torch: Any = None) -> Run:
    """A run from its results: limits are the best of the run, and a case beside a worse probe is noisy."""
    import numpy as np

    import lanner

    best = limits.best()
    final = []
    for result in results:
        limit, noise = best[result.case["limit"]], list(result.noise)
        if result.limit_then < FALLEN * limit:
            noise.append(f"the machine did {result.limit_then / limit:.0%} of its limit beside it")
        final.append(replace(result, limit_rate=limit, noise=noise))
    noise = unsteady(limits.probes)
    if load > limits.n_threads:
        noise.append(f"the load average was {load:.1f} at the start")
    n_noisy = sum(bool(result.noise) for result in final)
    if n_noisy:
        noise.append(f"{n_noisy} of {len(final)} cases were disturbed")
    versions = {"lanner": lanner.__version__, "python": platform.python_version(), "numpy": np.__version__}
    if torch:
        versions["torch"] = str(torch.__version__)
    return Run(
        n_threads=limits.n_threads,
        machine=f"{cpu_name()}, {os.cpu_count()} processors",
        isa=_core.isa(),
        versions=versions,
        limits=best,
        probes=limits.probes,
        noise=noise,
        results=final,
    )
