from __future__ import annotations

import numpy as np
import pytest
from harness import assert_rows_alone, poisoned, rows_step, tokens

import reference
from lanner import _core
from reference import U

SHAPES = [(1, 1), (2, 1), (4, 4), (8, 2), (15, 3), (16, 16), (17, 5), (60, 4), (128, 8), (256, 8), (1024, 20)]
"""Experts of a layer, and of a token."""


def route(x: np.ndarray, k: int, normalise: bool) -> tuple[np.ndarray, np.ndarray]:
    ids, weights = poisoned(len(x), k, "int32"), poisoned(len(x), k)
    _core.ops.route(
        rows_step(len(x)), x=tokens(x), ids=tokens(ids), weights=tokens(weights), normalise=normalise
    )
    return ids, weights


def logits(n_experts: int, rows: int = 33) -> np.ndarray:
    return (np.random.default_rng(n_experts).standard_normal((rows, n_experts)) * 4).astype(np.float32)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(("n_experts", "k"), SHAPES)
def test_close_to_float64(n_experts: int, k: int, normalise: bool) -> None:
    # An exponential of x is good to (4 + 1.5 |x|) U, x itself to U |x| (csrc/simd/math.h), and so are, at the
    # most, the sums of them; terms are positive, so the additions are relative too: a lane of every 16, three
    # sums of chains and four of lanes, or one after the other; then a quotient.
    x = logits(n_experts)
    ids, weights = route(x, k, normalise)
    wanted_ids, wanted = reference.route(x, k, normalise)
    np.testing.assert_array_equal(ids, wanted_ids)
    reach = (x.max(axis=1) - x.min(axis=1))[:, None].astype(np.float64)
    n_sums = k if normalise else n_experts / 16 + 8
    bound = (2 * (4 + 2.5 * reach) + n_sums + 1) * U * 1.01
    assert (np.abs(weights - wanted) <= bound * wanted + 2.0**-126).all()


def test_lower_ids_first_on_ties() -> None:
    x = np.array([[1, 3, 2, 3, 2, 2], [0, 0, 0, 0, 0, 0], [5, 1, -0.0, 0.0, 1, 0.0]], np.float32)
    ids, weights = route(x, 4, True)
    assert ids.tolist() == [[1, 2, 3, 4], [0, 1, 2, 3], [0, 1, 3, 4]]
    np.testing.assert_array_equal(weights[1], 0.25)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_a_number_reaches_the_weights(value: float, normalise: bool) -> None:
    for at in range(8):
        x = logits(8, 3)
        x[1, at] = value
        ids, weights = route(x, 2, normalise)
        assert np.isnan(weights[1]).all()
        assert np.isfinite(weights[[0, 2]]).all()
        assert (np.diff(ids) > 0).all() and ids.min() >= 0 and ids.max() < 8


def test_an_expert_that_is_forbidden_has_no_weight() -> None:
    x = np.full((1, 5), -np.inf, np.float32)
    x[0, 3] = 2
    ids, weights = route(x, 3, True)
    assert ids.tolist() == [[0, 1, 3]]
    assert weights.tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(("n_experts", "k"), [(8, 2), (60, 4)])
def test_rows_do_not_see_each_other(n_experts: int, k: int, normalise: bool) -> None:
    assert_rows_alone(lambda x: np.concatenate(route(x, k, normalise), axis=1), logits(n_experts, 40))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": tokens(poisoned(2, 1025))}, ValueError, "route: x has 1025 columns, wanted 1 to 1024"),
        ({"x": tokens(poisoned(2, 0))}, ValueError, "route: x has 0 columns, wanted 1 to 1024"),
        ({"ids": tokens(poisoned(2, 9, "int32"))}, ValueError, "route: ids has 9 columns, wanted 1 to 8"),
        ({"ids": tokens(poisoned(2, 0, "int32"))}, ValueError, "route: ids has 0 columns, wanted 1 to 8"),
        ({"ids": tokens(poisoned(2, 2))}, ValueError, "route: ids is 2-dimensional float32, wanted"),
        ({"weights": tokens(poisoned(2, 3))}, ValueError, "route: weights has 3 columns, wanted 2"),
        ({"normalise": None}, TypeError, "route: normalise is missing"),
        ({"k": 2}, TypeError, r"route: unexpected argument among .*k"),
    ],
)
def test_refuses(change: dict[str, object], error: type[Exception], message: str) -> None:
    good = {"x": tokens(poisoned(2, 8)), "ids": tokens(poisoned(2, 2, "int32")),
            "weights": tokens(poisoned(2, 2)), "normalise": True}  # fmt: skip
    with pytest.raises(error, match=message):
        _core.ops.route(rows_step(2), **(good | change))
