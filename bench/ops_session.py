"""What the benchmarks of `lanner.ops` share in a session of pytest."""

from __future__ import annotations

import os
from typing import Any

from lanner._threads import default_threads
from lanner.bench.contenders import package
from lanner.bench.machine import Limits, load_average
from lanner.bench.measure import Effort, use_threads
from lanner.bench.results import Result

N_THREADS = int(os.environ.get("LANNER_BENCH_THREADS") or default_threads()[0])
"""Threads of all contenders; bench/run.py sets it for a whole process."""


class OpsSession:
    """Limits of the machine, PyTorch if it is there, and the results so far."""

    def __init__(self) -> None:
        self.torch: Any = package("torch")
        self.effort, self.load = Effort(), load_average()
        self.results: list[Result] = []
        use_threads(N_THREADS, self.torch)
        self.limits = Limits(N_THREADS)
        self.limits.probe()
