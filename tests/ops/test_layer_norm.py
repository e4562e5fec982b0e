from __future__ import annotations

import numpy as np
import pytest
from harness import assert_rows_alone, poisoned, rows_step, tokens

import cases_rows
from cases import ROW_CASES, RowsCase
from lanner import _core, ops

EPS = 1e-5


def layer_norm(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, eps: float = EPS
) -> np.ndarray:
    out = poisoned(*x.shape)
    _core.ops.layer_norm(rows_step(len(x)), x=tokens(x), weight=weight, bias=bias, out=tokens(out), eps=eps)
    return out


def inputs(case: RowsCase) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of every size around a mean as large as their deviation."""
    rng = np.random.default_rng(case.seed)
    x = (rng.standard_normal((case.rows, case.cols)) + 1) * 10 ** rng.uniform(-6, 6, (case.rows, 1))
    weight, bias = rng.standard_normal((2, case.cols)).astype(np.float32)
    return x.astype(np.float32), weight, bias


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("case", ROW_CASES, ids=str)
def test_close_to_float64(case: RowsCase, with_bias: bool) -> None:
    x, weight, bias = inputs(case)
    bias = bias if with_bias else None
    cases_rows.layer_norm(x, weight, bias, EPS).check(layer_norm(x, weight, bias))


@pytest.mark.parametrize("cols", [1, 15, 16, 33, 576])
def test_the_bits_of_the_array_operation(cols: int) -> None:
    x, weight, bias = inputs(RowsCase(9, cols))
    np.testing.assert_array_equal(layer_norm(x, weight, bias), ops.layer_norm(x, weight, bias, eps=EPS))


@pytest.mark.parametrize("cols", [1, 15, 16, 33, 576])
def test_rows_do_not_see_each_other(cols: int) -> None:
    x, weight, bias = inputs(RowsCase(40, cols))
    assert_rows_alone(lambda rows: layer_norm(rows, weight, bias), x)


def test_nan_stays_in_its_row() -> None:
    x = np.linspace(0, 1, 120, dtype=np.float32).reshape(3, 40)
    x[1, 39] = np.nan
    out = layer_norm(x, np.ones(40, np.float32))
    assert np.isnan(out[1]).all()
    assert np.isfinite(out[[0, 2]]).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": np.ones(9, np.float32)}, ValueError, "layer_norm: weight has 9 elements, x has 96"),
        ({"bias": np.ones(9, np.float32)}, ValueError, "layer_norm: bias has 9 elements, x has 96 columns"),
        ({"bias": np.ones(96)}, ValueError, "layer_norm: bias must be a contiguous array of float32"),
        ({"bias": 1.0}, ValueError, "layer_norm: bias is a float, wanted a vector"),
        ({"weight": None}, TypeError, "layer_norm: weight is missing"),
        ({"out": tokens(poisoned(2, 95))}, ValueError, "layer_norm: out has 95 columns, wanted 96"),
        ({"eps": -1.0}, ValueError, "layer_norm: eps is -1, wanted a number that is not negative"),
        ({"eps": float("nan")}, ValueError, "layer_norm: eps is nan"),
        ({"epsilon": 1.0}, TypeError, r"layer_norm: unexpected argument among .*epsilon"),
    ],
)  # fmt: skip
def test_refuses(change: dict[str, object], error: type[Exception], message: str) -> None:
    good = {"x": tokens(np.ones((2, 96), np.float32)), "weight": np.ones(96, np.float32),
            "bias": np.ones(96, np.float32), "out": tokens(poisoned(2, 96)), "eps": EPS}  # fmt: skip
    with pytest.raises(error, match=message):
        _core.ops.layer_norm(rows_step(2), **(good | change))
