from __future__ import annotations

import numpy as np
import pytest
from harness import assert_rows_alone, poisoned, rows_step, tokens

import reference
from cases import ROW_CASES, RowsCase
from lanner import _core

EPS = 1e-5


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float = EPS) -> np.ndarray:
    out = poisoned(*x.shape)
    _core.ops.rms_norm(rows_step(len(x)), x=tokens(x), weight=weight, out=tokens(out), eps=eps)
    return out


def inputs(case: RowsCase) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(case.seed)
    x = rng.standard_normal((case.rows, case.cols)) * 10 ** rng.uniform(-6, 6, (case.rows, 1))
    return x.astype(np.float32), rng.standard_normal(case.cols).astype(np.float32)


@pytest.mark.parametrize("case", ROW_CASES, ids=str)
def test_close_to_float64(case: RowsCase) -> None:
    # A lane sums cols/16 squares (a product and a sum each, one more rounding if not fused), four additions
    # join the lanes, then the mean and eps: all terms are positive, so these are relative errors, and the
    # root halves them. Root, reciprocal and two products add one rounding each.
    x, weight = inputs(case)
    wanted = reference.rms_norm(x, weight, float(np.float32(EPS)))
    n = (-(-case.cols // 16) + 1 + 4 + 2) / 2 + 4
    np.testing.assert_array_less(
        np.abs(rms_norm(x, weight) - wanted), reference.gamma(n) * np.abs(wanted) + 1e-44
    )


@pytest.mark.parametrize("cols", [1, 15, 16, 33, 576])
def test_rows_do_not_see_each_other(cols: int) -> None:
    x, weight = inputs(RowsCase(40, cols))
    assert_rows_alone(lambda rows: rms_norm(rows, weight), x)


def test_row_of_zeros() -> None:
    assert not rms_norm(np.zeros((2, 19), np.float32), np.ones(19, np.float32)).any()


def test_nan_stays_in_its_row() -> None:
    x = np.ones((3, 40), np.float32)
    x[1, 39] = np.nan
    out = rms_norm(x, np.ones(40, np.float32))
    assert np.isnan(out[1]).all()
    assert np.isfinite(out[[0, 2]]).all()


def test_in_place() -> None:
    x, weight = inputs(RowsCase(5, 37))
    wanted = rms_norm(x, weight)
    _core.ops.rms_norm(rows_step(5), x=tokens(x), weight=weight, out=tokens(x), eps=EPS)
    np.testing.assert_array_equal(x, wanted)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": np.ones(9, np.float32)}, ValueError, "rms_norm: weight has 9 elements, x has 96 columns"),
        ({"weight": np.ones(96)}, ValueError, "rms_norm: weight must be a contiguous array of float32"),
        ({"weight": np.ones(192, np.float32)[::2]}, ValueError, "weight must be a contiguous array of"),
        ({"out": tokens(poisoned(2, 95))}, ValueError, "rms_norm: out has 95 columns, wanted 96"),
        ({"out": tokens(poisoned(1, 96))}, ValueError, "rms_norm: out has 1 rows, the step has 2"),
        ({"x": tokens(np.ones((2, 96)))}, ValueError, "rms_norm: x is 2-dimensional float64, wanted"),
        ({"x": tokens(np.ones(96, np.float32))}, ValueError, "rms_norm: x is 1-dimensional float32, wanted"),
        ({"x": tokens(np.ones((2, 192), np.float32)[:, ::2])}, ValueError, "wanted a contiguous matrix of"),
        ({"x": np.ones((2, 96), np.float32)}, ValueError, "rms_norm: x is a ndarray, wanted a Buffer"),
        ({"eps": -1.0}, ValueError, "rms_norm: eps is -1, wanted a number that is not negative"),
        ({"eps": float("nan")}, ValueError, "rms_norm: eps is nan"),
        ({"eps": "small"}, TypeError, "rms_norm: eps is a str"),
        ({"eps": None}, TypeError, "rms_norm: eps is missing"),
        ({"epsilon": 1.0}, TypeError, r"rms_norm: unexpected argument among .*epsilon"),
    ],
)  # fmt: skip
def test_refuses(change: dict[str, object], error: type[Exception], message: str) -> None:
    good = {"x": tokens(np.ones((2, 96), np.float32)), "weight": np.ones(96, np.float32),
            "out": tokens(poisoned(2, 96)), "eps": EPS}  # fmt: skip
    with pytest.raises(error, match=message):
        _core.ops.rms_norm(rows_step(2), **(good | change))


def test_buffer_of_an_unknown_kind() -> None:
    with pytest.raises(ValueError, match="kind is 'rows', wanted 'tokens' or 'outputs'"):
        _core.Buffer(np.ones((1, 1), np.float32), "rows")
