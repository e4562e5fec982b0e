"""The operations of `lanner.ops` on arrays, beside NumPy, PyTorch and the machine's limits: make bench."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from lanner.bench.cases import CASES, Case
from lanner.bench.contenders import OURS
from lanner.bench.measure import Comparison
from ops_session import OpsSession


@pytest.mark.parametrize("case", CASES, ids=str)
def test_op(benchmark: BenchmarkFixture, ops_session: OpsSession, case: Case) -> None:
    """pytest-benchmark times our turns; peers take theirs before each of them, in its setup."""
    comparison = Comparison(case, ops_session.limits, ops_session.effort, ops_session.torch)
    n_calls = comparison.turns.repeats[OURS]

    def setup() -> None:
        comparison.peers()
        comparison.turns.prepare(OURS)

    benchmark.pedantic(comparison.turns.run, (OURS,), setup=setup, rounds=ops_session.effort.rounds)
    if benchmark.stats is None:  # --benchmark-disable
        return
    # A round is a turn of n_calls; what pytest-benchmark prints and stores is the time of one call.
    times = [seconds / n_calls for seconds in benchmark.stats.stats.data]
    benchmark.stats.stats.data[:] = times
    benchmark.stats.iterations = n_calls
    comparison.samples[OURS] = times
    result = comparison.result()
    ops_session.results.append(result)
    benchmark.extra_info.update(result.as_json(), n_threads=ops_session.limits.n_threads)
