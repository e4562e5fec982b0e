from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pytest
from harness import fewer, outputs, poisoned, rows_step

from cases import SAMPLE, SampleCase
from lanner import _core
from reference_sample import LAST, check_any_row, sampling_weights


def sample(logits: np.ndarray, how: Sequence[tuple[float, ...]]) -> np.ndarray:
    """Ids for rows of logits (R, V), or R times the same (V,); how: a row of `sampling` for each."""
    n, most = len(how), 64 if logits.ndim == 1 else len(how)
    rows = np.broadcast_to(logits, (min(n, most), logits.shape[-1])).copy()
    ids = []
    for start in range(0, n, most):
        part = how[start : start + most]
        step = rows_step(1, [0] * len(part))
        step.sampling[: len(part)] = part
        out = poisoned(len(part), 1, "int32")
        _core.ops.sample(step, logits=outputs(rows[: len(part)]), out=outputs(out))
        ids.append(out[:, 0])
    return np.concatenate(ids)


def draws(case: SampleCase, uniforms: np.ndarray) -> np.ndarray:
    return sample(case.logits(), [(*case.settings, u) for u in uniforms])


def greedy(logits: np.ndarray) -> int:
    return int(sample(logits, [(0, 0, 1, 0, 1, 0.5)])[0])


# ---- greedy --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [*range(1, 35), 257, 1000])
def test_greedy_is_the_exact_argmax_and_the_lowest_id_on_ties(n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(20):
        few = rng.integers(-3, 3, n).astype(np.float32)  # many ties
        assert greedy(few) == np.argmax(few)
        many = rng.standard_normal(n).astype(np.float32)
        assert greedy(many) == np.argmax(many)
    close = np.full(n, 1.0, np.float32)
    close[n // 2 :] = np.nextafter(np.float32(1), np.float32(2))
    assert greedy(close) == n // 2


def test_greedy_over_infinities_and_signed_zeros() -> None:
    assert greedy(np.array([0.0, np.inf, np.inf], np.float32)) == -1
    assert greedy(np.array([-np.inf, -np.inf, -3e38], np.float32)) == 2
    assert greedy(np.full(40, -np.inf, np.float32)) == -1
    assert greedy(np.array([-0.0, 0.0, -1.0], np.float32)) == 0


@pytest.mark.parametrize("n", [2, 17, 40, 100])
def test_greedy_never_takes_nan_where_there_is_a_number(n: int) -> None:
    for at in {0, 1, n // 2, n - 1}:
        logits = np.arange(n, dtype=np.float32)
        logits[at] = np.nan
        assert greedy(logits) == (n - 2 if at == n - 1 else n - 1)
        logits[:] = np.nan
        logits[at] = -5
        assert greedy(logits) == at
    assert greedy(np.full(n, np.nan, np.float32)) == -1


SETTINGS = [
    (1, 0, 1, 0, 1), (1, 5, 1, 0, 1), (1, 0, 0.9, 0, 1), (1, 0, 1, 0.1, 1), (1, 0, 1, 0, 0.7),
    (0.8, 20, 0.9, 0.02, 0.9),
]  # fmt: skip
UNIFORMS = (0.0, 2.0**-24, 0.1, 0.5, 0.9, LAST)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("at", [0, 20, 39])
def test_nan_counts_as_forbidden(settings: tuple[float, ...], at: int) -> None:
    with_nan, without = (np.random.default_rng(1).standard_normal(40).astype(np.float32) for _ in range(2))
    with_nan[at], without[at] = np.nan, -np.inf
    how = [(*settings, u) for u in UNIFORMS]
    np.testing.assert_array_equal(sample(with_nan, how), sample(without, how))


# ---- drawing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SAMPLE, ids=str)
def test_draws_by_inverse_transform(case: SampleCase) -> None:
    """Every uniform finds the id in whose interval it lies, unless it lies within 1e-5 of a border."""
    ids, p = sampling_weights(case.logits(), *case.settings)
    edges = np.cumsum(p)
    n = fewer(4000 if case.vocab_size < 2000 else 1000)
    uniforms = np.random.default_rng(2).random(n).astype(np.float32)
    after = np.searchsorted(edges, uniforms, side="right")
    around = np.minimum(np.abs(uniforms - edges[np.maximum(after - 1, 0)]),
                        np.abs(uniforms - edges[np.minimum(after, len(p) - 1)]))  # fmt: skip
    inside = (around > 1e-5) | (len(p) == 1)
    assert inside.mean() > 0.8 or len(p) > 10000
    wanted = ids[np.minimum(after, len(ids) - 1)]
    drawn = draws(case, uniforms)
    np.testing.assert_array_equal(drawn[inside], wanted[inside])
    # Elsewhere it is a neighbour among the survivors; of tens of thousands each has about 1e-5.
    places = np.searchsorted(ids, drawn)
    assert np.array_equal(ids[np.minimum(places, len(ids) - 1)], drawn)
    assert np.abs(np.cumsum(p)[places] - p[places] / 2 - uniforms).max() < p.max() + 1e-5


def by_five(expected: np.ndarray) -> np.ndarray:
    """Numbers of classes: neighbours join until five or more are expected, the rest joins the last."""
    classes, of, sum = 0, np.zeros(len(expected), int), 0.0
    for i, each in enumerate(expected):
        of[i], sum = classes, sum + each
        if sum >= 5:
            classes, sum = classes + 1, 0.0
    return np.minimum(of, max(classes - 1, 0))


@pytest.mark.parametrize("case", SAMPLE, ids=str)
def test_frequencies_and_survivors(case: SampleCase) -> None:
    """Chi-square with a false alarm of one in a million; see by_five."""
    n = fewer(20000 if case.vocab_size < 2000 else 4000)
    counts = np.bincount(draws(case, np.random.default_rng(3).random(n)), minlength=case.vocab_size)
    ids, p = sampling_weights(case.logits(), *case.settings)
    assert counts[ids].sum() == n
    groups = by_five(p * n)
    observed, wanted = np.bincount(groups, counts[ids]), np.bincount(groups, p * n)
    if (freedom := len(wanted) - 1) > 0:
        # Quantile by Wilson and Hilferty (1931): a chi-square's cube root is nearly normal.
        spread = 2 / (9 * freedom)
        limit = freedom * (1 - spread + NormalDist().inv_cdf(1 - 1e-6) * spread**0.5) ** 3
        assert ((observed - wanted) ** 2 / wanted).sum() < limit


@pytest.mark.parametrize("case", SAMPLE, ids=str)
def test_every_survivor_can_be_drawn(case: SampleCase) -> None:
    ids, p = sampling_weights(case.logits(), *case.settings)
    middles = np.cumsum(p) - p / 2
    # Half an interval is wider than the rounding of a uniform and of the sums before it.
    likely = np.flatnonzero(p > 4e-6)[:: max(1, len(p) // fewer(3000))]
    np.testing.assert_array_equal(draws(case, middles[likely]), ids[likely])


@pytest.mark.parametrize("seed", range(fewer(80)))
def test_any_row(seed: int) -> None:
    """Ties, forbidden ids, sorted rows, every combination of settings."""
    check_any_row(sample, seed, 6000, 6, 20)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("n", [50, 5000])
def test_a_forbidden_id_is_never_drawn(settings: tuple[float, ...], n: int) -> None:
    """A logit of -inf has probability 0, also for the first and the last uniform."""
    logits = np.full(n, -np.inf, np.float32)
    logits[[20, 30]] = (1.0, 2.0)
    assert set(sample(logits, [(*settings, u) for u in UNIFORMS])) <= {20, 30}


@pytest.mark.parametrize("case", SAMPLE, ids=str)
def test_first_and_last_uniform_draw_survivors(case: SampleCase) -> None:
    ids, p = sampling_weights(case.logits(), *case.settings)
    first, last = draws(case, np.array([0.0, LAST]))
    # Uniforms stand in the middle of 2^-24: at neither end is there a chance for less than half of that.
    edges = np.cumsum(p)
    assert first == ids[edges > 2.0**-25][0]
    assert last == ids[edges > 1 - 2.0**-25][0]


def survivors(logits: np.ndarray, settings: tuple[float, ...], n_uniforms: int = 200) -> set[int]:
    """What uniforms everywhere draw."""
    return set(sample(logits, [(*settings, u) for u in np.linspace(0, LAST, n_uniforms)]).tolist())


@pytest.mark.parametrize("top_k", [1, 2, 3, 6])
def test_ties_at_the_border_of_top_k_keep_the_lowest_ids(top_k: int) -> None:
    assert survivors(np.zeros(40, np.float32), (1, top_k, 1, 0, 1)) == set(range(top_k))


@pytest.mark.parametrize("n", [100, 2400])
def test_ties_at_borders_keep_the_lowest_ids(n: int) -> None:
    """Whatever comes after, and among other logits: 0 is forbidden, 1 is likelier."""
    logits = np.zeros(n, np.float32)
    logits[0], logits[1] = -np.inf, 1.0
    draws = 2 * n
    assert survivors(logits, (1, n // 4, 1, 0, 1), draws) == set(range(1, n // 4 + 1))
    assert survivors(logits, (1, n // 4, 0.5, 0, 1), draws) < set(range(1, n // 4 + 1))
    half = survivors(logits, (1, 0, 0.5, 0, 1), draws)
    assert half == set(range(1, len(half) + 1))
    assert abs(len(half) - n / 2) < 4
    assert survivors(logits, (1, n // 4, 1, 0.5, 1), draws) == {1}
    # All of the same information are as typical as the first of them.
    assert survivors(logits, (1, n // 4, 1, 0, 0.1), draws) == set(range(2, n // 4 + 1))


@pytest.mark.parametrize(
    "settings", [(1, 20000, 1, 0, 1), (1, 0, 0.5, 0, 1), (1, 20000, 1, 0.1, 0.5)], ids=str
)
def test_tens_of_thousands_of_ties(settings: tuple[float, ...]) -> None:
    logits = np.full(40000, 2.5, np.float32)
    uniforms = np.array([0.0, 0.25, 0.5, LAST])
    drawn = sample(logits, [(*settings, u) for u in uniforms])
    np.testing.assert_array_equal(drawn, np.floor(20000 * uniforms))


def test_top_p_keeps_the_token_that_reaches_it() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.125], np.float32))
    for top_p, n in ((0.1, 1), (0.45, 1), (0.55, 2), (0.7, 2), (0.8, 3), (0.95, 4), (0.0, 1)):
        assert survivors(logits, (1, 0, top_p, 0, 1)) == set(range(n)), top_p


def test_typical_p_may_drop_the_likeliest() -> None:
    """-log2 p is 1, 3, 3, 3, 3, the entropy 2, as far from the one as from the others."""
    p = np.array([0.5, 0.125, 0.125, 0.125, 0.125])
    logits = np.log(p).astype(np.float32)
    logits[0] -= 0.1  # less likely: the entropy grows, and nears the others
    assert survivors(logits, (1, 0, 1, 0, 0.4)) == {1, 2, 3, 4}
    assert survivors(logits, (1, 0, 1, 0, 0.6)) == {0, 1, 2, 3, 4}
    logits[0] += 0.2
    assert survivors(logits, (1, 0, 1, 0, 0.4)) == {0}
    assert survivors(logits, (1, 0, 1, 0, 0.0)) == {0}


@pytest.mark.parametrize("temperature", [1e-6, 1e-30, 1e-38, 1e-40, 1e-45])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    logits = np.array([0.5, 1.0, 3.0, 2.0], np.float32)
    for rest in ((0, 1, 0, 1), (3, 1, 0, 1), (0, 0.9, 0.1, 0.9)):
        assert survivors(logits, (temperature, *rest)) == {2}


@pytest.mark.parametrize("temperature", [1e30, 3e38, np.inf])
def test_a_huge_temperature_is_even(temperature: float) -> None:
    logits = np.array([0.5, -np.inf, 3.0, -2.0], np.float32)
    for rest in ((0, 1, 0, 1), (0, 1, 1, 1), (0, 1, 0.5, 0.99)):
        assert survivors(logits, (temperature, *rest)) == {0, 2, 3}


def test_rows_do_not_see_each_other() -> None:
    rng = np.random.default_rng(4)
    logits = rng.standard_normal((40, 131)).astype(np.float32)
    how = list(zip(
        rng.choice([0, 0.5, 1.0], 40), rng.choice([0, 7, 131], 40), rng.choice([1.0, 0.9], 40),
        rng.choice([0, 0.05], 40), rng.choice([1.0, 0.8], 40), rng.random(40), strict=True))  # fmt: skip
    whole = sample(logits, how)
    for n in range(1, 41):
        np.testing.assert_array_equal(sample(logits[:n], how[:n]), whole[:n])
        np.testing.assert_array_equal(sample(logits[-n:], how[-n:]), whole[-n:])


def test_refuses() -> None:
    step, logits = rows_step(1, [0]), outputs(poisoned(1, 9))
    out = outputs(poisoned(1, 1, "int32"))
    with pytest.raises(ValueError, match="sample: logits has no columns"):
        _core.ops.sample(step, logits=outputs(poisoned(1, 0)), out=out)
    with pytest.raises(ValueError, match="sample: logits has 524289 columns, wanted at most 524288"):
        _core.ops.sample(step, logits=outputs(poisoned(1, 524289)), out=out)
    with pytest.raises(ValueError, match="sample: out has 2 columns, wanted 1"):
        _core.ops.sample(step, logits=logits, out=outputs(poisoned(1, 2, "int32")))
    with pytest.raises(ValueError, match="sample: out is 2-dimensional int64, wanted"):
        _core.ops.sample(step, logits=logits, out=outputs(poisoned(1, 1, "int64")))
    with pytest.raises(TypeError, match="sample: logits is missing"):
        _core.ops.sample(step, out=out)
    with pytest.raises(TypeError, match=r"sample: unexpected argument among .*seed"):
        _core.ops.sample(step, logits=logits, out=out, seed=0)
