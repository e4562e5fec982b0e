from __future__ import annotations

import numpy as np
import pytest
from harness import poisoned, rows_step, tokens

import cases_rows as cases
from cases import RowsCase
from cases_rows import ROW_CASES, rows
from lanner import _core, ops


@pytest.mark.parametrize("case", ROW_CASES[::3], ids=str)
def test_weight_and_bias(case: RowsCase) -> None:
    weight, bias = rows(RowsCase(2, case.cols))
    for scale, offset in ((1.0, 0.0), (1e-3, 1.0), (1e4, -3.0), (1.0, 1000.0)):
        x = rows(case, scale) + np.float32(offset)
        cases.rms_norm(x, weight).check(ops.rms_norm(x, weight))
        cases.layer_norm(x, weight, bias).check(ops.layer_norm(x, weight, bias))
        cases.layer_norm(x, None, bias, 1e-12).check(ops.layer_norm(x, None, bias, eps=1e-12))


@pytest.mark.parametrize("cols", [1, 15, 16, 17, 576, 4097])
def test_rms_norm_is_the_one_of_a_program(cols: int) -> None:
    x, weight = rows(RowsCase(7, cols)), rows(RowsCase(1, cols))[0]
    out = poisoned(7, cols)
    _core.ops.rms_norm(rows_step(7), x=tokens(x), weight=weight, out=tokens(out), eps=1e-5)
    np.testing.assert_array_equal(ops.rms_norm(x, weight, eps=1e-5), out)
    np.testing.assert_array_equal(ops.rms_norm(x, np.ones(cols, np.float32)), ops.rms_norm(x))


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-30, 1e-20, 1e18, 1e30, 1e38])
def test_squares_beyond_float32(scale: float) -> None:
    x = (rows(RowsCase(3, 100)).clip(-3, 3) * scale).astype(np.float32)
    cases.rms_norm(x, eps=0).check(ops.rms_norm(x, eps=0))
    cases.layer_norm(x, eps=0).check(ops.layer_norm(x, eps=0))
    cases.rms_norm(x).check(ops.rms_norm(x))


@pytest.mark.parametrize("offset", [1e3, 1e5, 1e7, 1e9])
def test_mean_far_above_the_deviation(offset: float) -> None:
    for cols in (3, 640, 5000):
        x = (rows(RowsCase(3, cols)) + offset).astype(np.float32)
        cases.layer_norm(x).check(ops.layer_norm(x))


def test_special_values() -> None:
    x = np.ones((4, 40), np.float32)
    x[1, 39], x[2, 39], x[3] = np.nan, np.inf, 0
    with np.errstate(all="raise"):
        rms, layer = ops.rms_norm(x), ops.layer_norm(x)
    assert np.isnan(rms[1]).all()
    assert np.isnan(rms[2, 39])
    assert not rms[2, :39].any()
    assert not rms[3].any()
    assert np.isnan(layer[1:3]).all()
    assert not layer[[0, 3]].any()
    assert np.isnan(ops.rms_norm(x[3], eps=0)).all()
    bias = np.arange(40, dtype=np.float32)
    np.testing.assert_array_equal(ops.layer_norm(x[0], None, bias), bias)


X = np.ones((2, 96), np.float32)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": X[0, :64]}, ValueError, "norm: weight has 64 elements, x has 96 columns"),
        ({"weight": X}, ValueError, "norm: weight has 2 axes, wanted 1"),
        ({"weight": X[0].astype(np.float64)}, TypeError, "norm: weight is float64, wanted float32"),
        ({"x": X.astype(np.float16)}, TypeError, "norm: x is float16, wanted float32"),
        ({"x": np.array(1, np.float32)}, ValueError, "norm: x has no axes, wanted at least 1"),
        ({"eps": -1.0}, ValueError, "norm: eps is -1.0, wanted a finite number that is not negative"),
        ({"eps": float("nan")}, ValueError, "norm: eps is nan"),
        ({"eps": 1e39}, ValueError, "norm: eps is 1e"),
        ({"eps": "small"}, TypeError, "norm: eps is a str, wanted a number"),
        ({"out": X[:1]}, ValueError, r"norm: out has shape \(1, 96\), wanted \(2, 96\)"),
        ({"epsilon": 1.0}, TypeError, "epsilon"),
    ],
)
def test_refuses(change: dict[str, object], error: type[Exception], message: str) -> None:
    for operation in (ops.rms_norm, ops.layer_norm):
        with pytest.raises(error, match=message):
            operation(**({"x": X} | change))
