"""Limits of this machine, measured in the session; every benchmark states its share of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from lanner import _core
from lanner.bench import report
from lanner.bench.measure import finish
from lanner.bench.results import Run, as_json
from ops_session import N_THREADS, OpsSession
from rings import Limits

RESULTS = Path(__file__).parent / "results"
RUN = pytest.StashKey[Run]()


@pytest.fixture(scope="session")
def ops_session(request: pytest.FixtureRequest) -> Iterator[OpsSession]:
    session = OpsSession()
    yield session
    if session.results:
        session.limits.probe()
        run = finish(session.limits, session.results, session.load, session.torch)
        request.config.stash[RUN] = run
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"ops-{N_THREADS}.json").write_text(json.dumps(as_json([run]), indent=1) + "\n")


@pytest.hookimpl(trylast=True)  # below the table of pytest-benchmark
def pytest_terminal_summary(config: pytest.Config) -> None:
    if RUN in config.stash:
        report.show(config.stash[RUN], report.console())


@pytest.fixture(scope="session")
def limits() -> Limits:
    return Limits(
        N_THREADS, _core.probe_read_bandwidth(N_THREADS, 1 << 28, n_runs=20), _core.probe_fma(N_THREADS)
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
