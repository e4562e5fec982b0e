"""Row i is the same bits whatever the rows beside it, their number, the number of threads and alignment."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from harness import EMULATED, bits

from lanner import ops
from layouts import place
from rowwise import N_ROWS, ROWWISE


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    n = ops.get_threads()
    yield
    ops.set_threads(n)


def row_bits(y: np.ndarray) -> np.ndarray:
    return bits(y.reshape(len(y), -1))


@pytest.mark.parametrize("name", ROWWISE)
def test_a_row_depends_on_itself_alone(name: str) -> None:
    run, x = ROWWISE[name].run, ROWWISE[name].x
    rng = np.random.default_rng(0)
    ops.set_threads(1)
    whole = row_bits(run(x))
    assert len(np.unique(whole[:, :64], axis=0)) > 1
    for n_threads in range(1, 5):
        ops.set_threads(n_threads)
        for n in range(1, N_ROWS + 1, 7 if EMULATED else 1):
            some = slice(0, n) if (n + n_threads) % 2 else slice(N_ROWS - n, N_ROWS)
            placed = place(x[some], "bytes" if n % 4 == 0 else "offset", rng, 0xFF).array
            message = f"{n_threads} threads, rows {some.start} to {some.stop - 1}"
            np.testing.assert_array_equal(row_bits(run(placed)), whole[some], message)
