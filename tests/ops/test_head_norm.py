from __future__ import annotations

import numpy as np
import pytest
from harness import assert_rows_alone, bits, poisoned, rows_step, tokens

import reference
from cases import HEAD_DIMS
from lanner import _core

EPS = 1e-5


def head_norm(qkv: np.ndarray, q_weight: np.ndarray, k_weight: np.ndarray, n_heads: int) -> np.ndarray:
    """qkv (T, heads, D)."""
    out = qkv.reshape(len(qkv), -1).copy()
    _core.ops.head_norm(
        rows_step(len(qkv)), qkv=tokens(out), q_weight=q_weight, k_weight=k_weight, n_heads=n_heads, eps=EPS
    )
    return out.reshape(qkv.shape)


def inputs(n: int, n_heads: int, n_kv_heads: int, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(dim + n)
    qkv = rng.standard_normal((n, n_heads + 2 * n_kv_heads, dim)) * 10 ** rng.uniform(-3, 3, (n, 1, 1))
    q_weight, k_weight = rng.standard_normal((2, dim)).astype(np.float32)
    return qkv.astype(np.float32), q_weight, k_weight


@pytest.mark.parametrize(("n_heads", "n_kv_heads"), [(1, 1), (6, 2), (5, 5)])
@pytest.mark.parametrize("dim", [1, *HEAD_DIMS])
def test_close_to_float64(dim: int, n_heads: int, n_kv_heads: int) -> None:
    qkv, q_weight, k_weight = inputs(5, n_heads, n_kv_heads, dim)
    got = head_norm(qkv, q_weight, k_weight, n_heads)
    weights = np.repeat([q_weight, k_weight], [n_heads, n_kv_heads], axis=0)
    normed = n_heads + n_kv_heads
    wanted = reference.rms_norm(qkv[:, :normed], weights, float(np.float32(EPS)))
    n = (-(-dim // 16) + 1 + 4 + 2) / 2 + 4  # as in test_rms_norm
    np.testing.assert_array_less(
        np.abs(got[:, :normed] - wanted), reference.gamma(n) * np.abs(wanted) + 1e-44
    )
    np.testing.assert_array_equal(bits(got[:, normed:]), bits(qkv[:, normed:]))


def test_rows_do_not_see_each_other() -> None:
    qkv, q_weight, k_weight = inputs(40, 3, 1, 20)
    assert_rows_alone(lambda rows: head_norm(rows, q_weight, k_weight, 3), qkv)


def test_nan_stays_in_its_head() -> None:
    qkv, q_weight, k_weight = inputs(3, 3, 1, 20)
    qkv[1, 2, 7] = np.nan
    out = head_norm(qkv, q_weight, k_weight, 3)
    assert np.isnan(out[1, 2]).all()
    out[1, 2] = 0
    assert np.isfinite(out).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"qkv": tokens(poisoned(2, 79))},
            ValueError,
            "head_norm: qkv has 79 columns, wanted 80 and a multiple",
        ),
        ({"qkv": tokens(poisoned(2, 96))}, ValueError, "qkv has 96 columns, wanted 80 and a multiple of 32"),
        (
            {"qkv": tokens(poisoned(2, 48))},
            ValueError,
            "head_norm: qkv has 48 columns, wanted 80 and a multiple",
        ),
        ({"qkv": tokens(poisoned(1, 80))}, ValueError, "head_norm: qkv has 1 rows, the step has 2"),
        ({"k_weight": np.ones(15, "f4")}, ValueError, "q_weight and k_weight have 16 and 15 elements"),
        ({"q_weight": np.ones(0, "f4"), "k_weight": np.ones(0, "f4")}, ValueError, "have 0 and 0 elements"),
        ({"q_weight": np.ones(16)}, ValueError, "head_norm: q_weight must be a contiguous array of float32"),
        ({"n_heads": 0}, ValueError, "head_norm: n_heads is 0, wanted a positive number"),
        ({"n_heads": 2**31 - 1}, ValueError, "head_norm: qkv has 80 columns, wanted 34359738384 and a"),
        ({"eps": -1.0}, ValueError, "head_norm: eps is -1, wanted a number that is not negative"),
        ({"eps": None}, TypeError, "head_norm: eps is missing"),
        ({"weight": 1}, TypeError, r"head_norm: unexpected argument among .*weight"),
    ],
)
def test_refuses(change: dict[str, object], error: type[Exception], message: str) -> None:
    good = {"qkv": tokens(np.ones((2, 80), np.float32)), "q_weight": np.ones(16, np.float32),
            "k_weight": np.ones(16, np.float32), "n_heads": 3, "eps": EPS}  # fmt: skip
    with pytest.raises(error, match=message):
        _core.ops.head_norm(rows_step(2), **(good | change))
