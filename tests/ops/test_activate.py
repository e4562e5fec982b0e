"""activate and softcap: in place, by columns."""

from __future__ import annotations

import numpy as np
import pytest
from harness import assert_rows_alone, rows_step, tokens

from cases import ROW_CASES
from cases_rows import ACTIVATIONS, VALUES, Oracle, spread
from lanner import _core
from reference import ACTIVATIONS as EXACT
from reference import U, softcap


def in_place(op: str, x: np.ndarray, **options: object) -> np.ndarray:
    out = x.copy()
    getattr(_core.ops, op)(rows_step(len(x)), x=tokens(out), **options)
    return out


def capped(x: np.ndarray, cap: float) -> Oracle:
    # tanh is good to 6 U, and passes the relative error of the quotient on at most whole; the product is the
    # eighth. Where the quotient is denormal it is off by 2^-149, which the product makes cap times as large.
    y = softcap(x.astype(np.float64), float(np.float32(cap)))
    return Oracle(y, 8 * U * np.abs(y) + 2.0**-149 * (1 + cap))


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("function", ACTIVATIONS)
def test_close_to_float64(function: str, values: str) -> None:
    for case in ROW_CASES:
        x = spread(np.random.default_rng(case.seed), (case.rows, case.cols), values)
        ACTIVATIONS[function](x).check(in_place("activate", x, function=function))


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_over_the_range_of_the_exponential(function: str) -> None:
    x = np.linspace(-120, 120, 64001, dtype=np.float32).reshape(1, -1)
    with np.errstate(over="ignore"):
        ACTIVATIONS[function](x).check(in_place("activate", x, function=function))
    # The oracles and the plain formulas are the same functions; 1 + tanh cancels at one end.
    x = x[:, ::7]
    np.testing.assert_allclose(
        ACTIVATIONS[function](x).wanted, EXACT[function](x.astype(float)), rtol=1e-9, atol=1e-14
    )


@pytest.mark.parametrize("cap", [0.5, 30.0, 50.0, 1e-30, 1e30])
@pytest.mark.parametrize("values", ["normal", "wide", "large", "tiny", "zeros", "ties"])
def test_softcap_is_close_to_float64(values: str, cap: float) -> None:
    for case in ROW_CASES:
        x = spread(np.random.default_rng(case.seed), (case.rows, case.cols), values)
        capped(x, cap).check(in_place("softcap", x, cap=cap))


def test_ends_of_softcap() -> None:
    x = np.array([[np.inf, -np.inf, np.nan, 0.0]], np.float32)
    np.testing.assert_array_equal(in_place("softcap", x, cap=30.0), [[30, -30, np.nan, 0]])


RUNS = {**{f: ("activate", {"function": f}) for f in ACTIVATIONS}, "softcap": ("softcap", {"cap": 30.0})}


@pytest.mark.parametrize("cols", [1, 16, 53])
@pytest.mark.parametrize("name", RUNS)
def test_rows_do_not_see_each_other(name: str, cols: int) -> None:
    op, options = RUNS[name]
    x = spread(np.random.default_rng(3), (40, cols)) * np.float32(20)
    assert_rows_alone(lambda rows: in_place(op, rows, **options), x)


@pytest.mark.parametrize("cols", [5, 64, 133])
@pytest.mark.parametrize("name", RUNS)
def test_units_change_no_bit(name: str, cols: int) -> None:
    op, options = RUNS[name]
    x = spread(np.random.default_rng(3), (5, cols)) * np.float32(9)
    wanted = in_place(op, x, **options)
    for unit_cols in (16, 32, 48, 1024):
        np.testing.assert_array_equal(in_place(op, x, unit_cols=unit_cols, **options), wanted)


def test_no_rows() -> None:
    for op, options in RUNS.values():
        assert in_place(op, np.zeros((0, 7), np.float32), **options).shape == (0, 7)


@pytest.mark.parametrize(
    ("op", "change", "error", "message"),
    [
        ("activate", {"function": "swish"}, ValueError,
         "activate: function is 'swish', wanted one of silu, gelu, gelu_tanh, relu, tanh, sigmoid"),
        ("activate", {"function": None}, TypeError, "activate: function is missing"),
        ("activate", {"function": 1}, TypeError, "activate: function is a int"),
        ("activate", {"unit_cols": 0}, ValueError, "activate: unit_cols is 0, wanted a positive"),
        ("softcap", {"unit_cols": 24}, ValueError, "softcap: unit_cols is 24, wanted a positive"),
        ("softcap", {"cap": 0.0}, ValueError, "softcap: cap is 0, wanted a positive number"),
        ("softcap", {"cap": -1.0}, ValueError, "softcap: cap is -1, wanted a positive number"),
        ("softcap", {"cap": float("inf")}, ValueError, "softcap: cap is inf, wanted a positive number"),
        ("softcap", {"cap": float("nan")}, ValueError, "softcap: cap is -?nan, wanted a positive number"),
        ("softcap", {"cap": None}, TypeError, "softcap: cap is missing"),
    ],
)  # fmt: skip
def test_refuses(op: str, change: dict[str, object], error: type[Exception], message: str) -> None:
    good = {"activate": {"function": "relu"}, "softcap": {"cap": 30.0}}[op]
    with pytest.raises(error, match=message):
        getattr(_core.ops, op)(rows_step(2), x=tokens(np.ones((2, 64), np.float32)), **(good | change))


def test_an_array_that_may_not_be_written_is_refused() -> None:
    x = np.ones((2, 64), np.float32)
    x.flags.writeable = False
    with pytest.raises(ValueError, match="activate: x is read-only"):
        _core.ops.activate(rows_step(2), x=tokens(x), function="relu")
