"""Limits of this machine, measured once per session; every benchmark states its share of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from lanner import _core
from lanner._threads import default_threads
from rings import Limits


@pytest.fixture(scope="session")
def limits() -> Limits:
    n_threads = default_threads()[0]
    return Limits(
        n_threads, _core.probe_read_bandwidth(n_threads, 1 << 28, n_runs=20), _core.probe_fma(n_threads)
    )


@pytest.fixture
def measure(benchmark: BenchmarkFixture, limits: Limits) -> Callable[..., None]:
    """Times a function and puts what a call reads and multiplies beside the limits.

    `n_bytes` and `n_macs` are those of one call; `n_bytes` counts only what comes from memory.
    """

    def run(function: Callable[[], object], *, n_bytes: float = 0.0, n_macs: float = 0.0) -> None:
        benchmark.extra_info.update(isa=_core.isa(), n_threads=limits.n_threads)
        benchmark(function)
        if benchmark.disabled or benchmark.stats is None:
            return
        seconds = benchmark.stats.stats.median
        if n_bytes:
            rate = n_bytes / seconds
            benchmark.extra_info.update(gb_per_s=rate / 1e9, share_of_bandwidth=rate / limits.read_bandwidth)
        if n_macs:
            rate = n_macs / seconds
            benchmark.extra_info.update(gmac_per_s=rate / 1e9, share_of_fma=rate / limits.fma)

    return run
