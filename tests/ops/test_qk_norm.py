from __future__ import annotations

import numpy as np
import pytest
from harness import assert_rows_alone, bits, poisoned, rows_step, tokens

import reference
from lanner import _core

EPS = 1e-5


def qk_norm(qkv: np.ndarray, q_weight: np.ndarray, k_weight: np.ndarray) -> np.ndarray:
    out = qkv.copy()
    _core.ops.qk_norm(rows_step(len(qkv)), qkv=tokens(out), q_weight=q_weight, k_weight=k_weight, eps=EPS)
    return out


def inputs(n: int, q_cols: int, k_cols: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(q_cols + n)
    qkv = rng.standard_normal((n, q_cols + 2 * k_cols)) * 10 ** rng.uniform(-3, 3, (n, 1))
    weights = (rng.standard_normal(cols).astype(np.float32) for cols in (q_cols, k_cols))
    return qkv.astype(np.float32), *weights


@pytest.mark.parametrize(("q_cols", "k_cols"), [(1, 1), (16, 16), (33, 20), (576, 192), (2048, 2048)])
def test_close_to_float64(q_cols: int, k_cols: int) -> None:
    qkv, q_weight, k_weight = inputs(5, q_cols, k_cols)
    got, end = qk_norm(qkv, q_weight, k_weight), q_cols + k_cols
    for part, weight in ((slice(0, q_cols), q_weight), (slice(q_cols, end), k_weight)):
        wanted = reference.rms_norm(qkv[:, part], weight, float(np.float32(EPS)))
        n = (-(-len(weight) // 16) + 1 + 4 + 2) / 2 + 4  # as in test_rms_norm
        np.testing.assert_array_less(
            np.abs(got[:, part] - wanted), reference.gamma(n) * np.abs(wanted) + 1e-44
        )
    np.testing.assert_array_equal(bits(got[:, end:]), bits(qkv[:, end:]))


def test_rows_do_not_see_each_other() -> None:
    qkv, q_weight, k_weight = inputs(40, 60, 20)
    assert_rows_alone(lambda rows: qk_norm(rows, q_weight, k_weight), qkv)


def test_nan_stays_in_its_part_of_a_row() -> None:
    qkv, q_weight, k_weight = inputs(3, 60, 20)
    qkv[1, 65] = np.nan
    out = qk_norm(qkv, q_weight, k_weight)
    assert np.isnan(out[1, 60:80]).all()
    out[1, 60:80] = 0
    assert np.isfinite(out).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"qkv": tokens(poisoned(2, 79))}, ValueError, "qk_norm: qkv has 79 columns, wanted 80"),
        ({"qkv": tokens(poisoned(1, 80))}, ValueError, "qk_norm: qkv has 1 rows, the step has 2"),
        ({"k_weight": np.ones(15, "f4")}, ValueError, "qk_norm: qkv has 80 columns, wanted 78"),
        ({"k_weight": np.ones(0, "f4")}, ValueError, "q_weight and k_weight have 48 and 0 elements"),
        ({"q_weight": np.ones(48)}, ValueError, "qk_norm: q_weight must be a contiguous array of float32"),
        ({"eps": -1.0}, ValueError, "qk_norm: eps is -1, wanted a number that is not negative"),
        ({"eps": None}, TypeError, "qk_norm: eps is missing"),
        ({"n_heads": 1}, TypeError, r"qk_norm: unexpected argument among .*n_heads"),
    ],
)
def test_refuses(change: dict[str, object], error: type[Exception], message: str) -> None:
    good = {"qkv": tokens(np.ones((2, 80), np.float32)), "q_weight": np.ones(48, np.float32),
            "k_weight": np.ones(16, np.float32), "eps": EPS}  # fmt: skip
    with pytest.raises(error, match=message):
        _core.ops.qk_norm(rows_step(2), **(good | change))
