from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from harness import outputs, poisoned, rows_step

from cases import SAMPLE, SampleCase
from lanner import _core

LAST = 1 - 2.0**-24
"""The largest float32 below 1: a generator of 24 bits ends there."""


def sampling_weights(
    logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float
) -> tuple[np.ndarray, np.ndarray]:
    """Surviving ids, most likely first and lower ids first on ties, and their probabilities."""
    order = np.lexsort((np.arange(len(logits)), -logits))
    p = np.exp((logits[order].astype(np.float64) - logits.max()) / temperature)
    if 0 < top_k < len(p):
        order, p = order[:top_k], p[:top_k]
    p /= p.sum()
    if top_p < 1:
        n = int(np.searchsorted(np.cumsum(p), top_p)) + 1
        order, p = order[:n], p[:n]
    kept = p >= min_p * p[0]
    order, p = order[kept], p[kept]
    return order, p / p.sum()


def sample(logits: np.ndarray, how: list[tuple[float, ...]]) -> np.ndarray:
    """Ids for rows of logits (R, V); how gives temperature, top_k, top_p, min_p and uniform of each row."""
    n = len(how)
    step = rows_step(1, [0] * n)
    step.sampling[:n] = how
    rows = np.broadcast_to(logits, (n, logits.shape[-1])).copy()
    out = poisoned(n, 1, "int32")
    _core.ops.sample(step, logits=outputs(rows), out=outputs(out))
    return out[:, 0]


def draws(case: SampleCase, uniforms: np.ndarray) -> np.ndarray:
    settings = (case.temperature, case.top_k, case.top_p, case.min_p)
    return sample(case.logits(), [(*settings, u) for u in uniforms])


def greedy(logits: np.ndarray) -> int:
    return int(sample(logits[None], [(0, 0, 1, 0, 0.5)])[0])


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


@pytest.mark.parametrize("settings", [(1, 0, 1, 0), (1, 5, 1, 0), (1, 0, 0.9, 0), (1, 0, 1, 0.1)], ids=str)
@pytest.mark.parametrize("at", [0, 20, 39])
def test_nan_counts_as_forbidden(settings: tuple[float, ...], at: int) -> None:
    with_nan, without = (np.random.default_rng(1).standard_normal(40).astype(np.float32) for _ in range(2))
    with_nan[at], without[at] = np.nan, -np.inf
    how = [(*settings, u) for u in (2.0**-24, 0.1, 0.5, 0.9, LAST)]
    np.testing.assert_array_equal(sample(with_nan, how), sample(without, how))


# ---- drawing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SAMPLE, ids=str)
def test_draws_by_inverse_transform(case: SampleCase) -> None:
    """Every uniform finds the id in whose interval it lies, unless it lies within 1e-5 of a border."""
    ids, p = sampling_weights(case.logits(), case.temperature, case.top_k, case.top_p, case.min_p)
    if not case.top_k and case.top_p == 1:  # nothing was sorted: intervals follow the ids
        order = np.argsort(ids)
        ids, p = ids[order], p[order]
    edges = np.cumsum(p)
    uniforms = np.random.default_rng(2).random(4000).astype(np.float32)
    inside = np.abs(uniforms[:, None] - edges[:-1]).min(axis=1, initial=1) > 1e-5
    assert inside.mean() > 0.8
    wanted = ids[np.minimum(np.searchsorted(edges, uniforms, side="right"), len(ids) - 1)]
    np.testing.assert_array_equal(draws(case, uniforms)[inside], wanted[inside])


@pytest.mark.parametrize("case", SAMPLE, ids=str)
def test_frequencies_and_survivors(case: SampleCase) -> None:
    """Chi-square with a false alarm of one in a million; ids expected fewer than five times are one class."""
    n = 20000
    counts = np.bincount(draws(case, np.random.default_rng(3).random(n)), minlength=case.vocab_size)
    ids, p = sampling_weights(case.logits(), case.temperature, case.top_k, case.top_p, case.min_p)
    assert counts[ids].sum() == n
    common = p * n >= 5
    observed = np.append(counts[ids][common], counts[ids][~common].sum())
    wanted = np.append(p[common], p[~common].sum()) * n
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    if (freedom := len(wanted) - 1) > 0:
        # Quantile by Wilson and Hilferty (1931): a chi-square's cube root is nearly normal.
        spread = 2 / (9 * freedom)
        limit = freedom * (1 - spread + NormalDist().inv_cdf(1 - 1e-6) * spread**0.5) ** 3
        assert ((observed - wanted) ** 2 / wanted).sum() < limit


@pytest.mark.parametrize("case", SAMPLE, ids=str)
def test_every_survivor_can_be_drawn(case: SampleCase) -> None:
    ids, p = sampling_weights(case.logits(), case.temperature, case.top_k, case.top_p, case.min_p)
    if not case.top_k and case.top_p == 1:
        order = np.argsort(ids)
        ids, p = ids[order], p[order]
    middles = np.cumsum(p) - p / 2
    likely = p > 1e-6
    np.testing.assert_array_equal(draws(case, middles[likely]), ids[likely])


@pytest.mark.parametrize("settings", [(1, 0, 1, 0), (1, 3, 1, 0), (1, 0, 0.9, 0), (1, 0, 1, 0.01)], ids=str)
@pytest.mark.parametrize("uniform", [0.0, 2.0**-24, 0.5, LAST])
def test_a_forbidden_id_is_never_drawn(settings: tuple[float, ...], uniform: float) -> None:
    """A logit of -inf has probability 0, also for the first and the last uniform."""
    logits = np.full(50, -np.inf, np.float32)
    logits[[20, 30]] = (1.0, 2.0)
    assert sample(logits, [(*settings, uniform)])[0] in (20, 30)


@pytest.mark.parametrize("case", SAMPLE, ids=str)
def test_first_and_last_uniform_draw_survivors(case: SampleCase) -> None:
    ids, p = sampling_weights(case.logits(), case.temperature, case.top_k, case.top_p, case.min_p)
    first, last = draws(case, np.array([0.0, LAST]))
    assert first in ids
    assert last in ids[p > 1e-12]


@pytest.mark.parametrize("top_k", [1, 2, 3, 6])
def test_ties_at_the_border_of_top_k_keep_the_lowest_ids(top_k: int) -> None:
    logits = np.zeros(40, np.float32)
    uniforms = (np.arange(top_k) + 0.5) / top_k
    assert sample(logits, [(1, top_k, 1, 0, u) for u in uniforms]).tolist() == list(range(top_k))


def test_top_p_keeps_the_token_that_reaches_it() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.125], np.float32))
    for top_p, survivors in ((0.1, 1), (0.45, 1), (0.55, 2), (0.7, 2), (0.8, 3), (0.95, 4), (0.0, 1)):
        drawn = sample(logits, [(1, 0, top_p, 0, u) for u in np.linspace(0, LAST, 200)])
        assert set(drawn) == set(range(survivors)), top_p


@pytest.mark.parametrize("temperature", [1e-6, 1e-30, 1e-38, 1e-40, 1e-45])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    logits = np.array([0.5, 1.0, 3.0, 2.0], np.float32)
    for top_k in (0, 3):
        assert set(sample(logits, [(temperature, top_k, 1, 0, u) for u in (0.1, 0.5, LAST)])) == {2}


def test_rows_do_not_see_each_other() -> None:
    rng = np.random.default_rng(4)
    logits = rng.standard_normal((40, 131)).astype(np.float32)
    how = [(t, k, p, m, u) for t, k, p, m, u in zip(
        rng.choice([0, 0.5, 1.0], 40), rng.choice([0, 7, 131], 40), rng.choice([1.0, 0.9], 40),
        rng.choice([0, 0.05], 40), rng.random(40), strict=True)]  # fmt: skip
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
