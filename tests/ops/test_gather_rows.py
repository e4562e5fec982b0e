from __future__ import annotations

import numpy as np
import pytest
from harness import bits, outputs, poisoned, rows_step, tokens

from cases import ROW_CASES, RowsCase
from lanner import _core


@pytest.mark.parametrize("case", ROW_CASES, ids=str)
def test_copies_the_wanted_rows(case: RowsCase) -> None:
    rng = np.random.default_rng(case.seed)
    x = rng.integers(0, 2**32, (case.rows, case.cols), np.uint32).view(np.float32)  # NaN payloads too
    rows = [*rng.integers(0, case.rows, 5), case.rows - 1, 0, 0]
    out = poisoned(len(rows), case.cols)
    _core.ops.gather_rows(rows_step(case.rows, rows), x=tokens(x), out=outputs(out))
    np.testing.assert_array_equal(bits(out), bits(x[rows]))


def test_no_outputs() -> None:
    out = poisoned(1, 4)
    _core.ops.gather_rows(rows_step(3), x=tokens(np.ones((3, 4), np.float32)), out=outputs(out))
    np.testing.assert_array_equal(bits(out), bits(poisoned(1, 4)))


def test_refuses() -> None:
    x = np.ones((3, 4), np.float32)
    with pytest.raises(ValueError, match="gather_rows: out has 5 columns, wanted 4"):
        _core.ops.gather_rows(rows_step(3, [0]), x=tokens(x), out=outputs(poisoned(1, 5)))
    with pytest.raises(ValueError, match="gather_rows: out has 1 rows, the step has 2"):
        _core.ops.gather_rows(rows_step(3, [0, 1]), x=tokens(x), out=outputs(poisoned(1, 4)))
    with pytest.raises(TypeError, match="gather_rows: x is missing"):
        _core.ops.gather_rows(rows_step(3, [0]), out=outputs(poisoned(1, 4)))
    with pytest.raises(TypeError, match=r"gather_rows: unexpected argument among .*rows"):
        _core.ops.gather_rows(rows_step(3, [0]), x=tokens(x), out=outputs(poisoned(1, 4)), rows=1)
