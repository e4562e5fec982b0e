"""Tokens are drawn as the CPU draws them: from the same survivors, at the same place of the uniform."""

from __future__ import annotations

import numpy as np
import pytest

from cases import SAMPLE, SampleCase
from reference_sample import LAST, check_any_row, sampling_weights
from values import call, put, room, rows

SCRATCH = 512 * 4 + 512 * 8 + 3 * 1280 * 4
CUDA_CASES = [
    # More candidates than fit in shared memory, and a vocabulary of today.
    SampleCase(40000, 0.8, top_k=5000, top_p=0.9),
    SampleCase(131073, 0.7, top_k=50, top_p=0.95),
    SampleCase(131073, top_p=0.9, spread=3.0),
]


def sample(cuda, logits, how, *, n_rows=None):
    """Ids for rows of logits (R, V), or R times the same (V,); how: a row of `sampling` for each."""
    n, bound = len(how), n_rows or len(how)
    given = np.zeros((bound, logits.shape[-1]), np.float32)
    given[:n] = logits
    settings = np.zeros((bound, 6), np.float32)
    settings[:n] = how
    out = room(cuda, bound, 1, kind="int32")
    scratch = room(cuda, bound, SCRATCH // 4, kind="int32")
    call(cuda, "sample", bound, logits=put(cuda, given, "float32"), sampling=put(cuda, settings, "float32"),
         out=out, scratch=scratch, scratch_bytes=bound * SCRATCH, vocab_size=given.shape[1],
         rows=rows(cuda, n, "outputs"))  # fmt: skip
    assert out.is_untouched(n)
    return out.numpy()[:n, 0]


def draws(cuda, case, uniforms):
    return sample(cuda, case.logits(), [(*case.settings, u) for u in uniforms])


def greedy(cuda, logits):
    return int(sample(cuda, logits, [(0, 0, 1, 0, 1, 0.5)])[0])


@pytest.fixture
def source(fibers):
    """Of tests whose rows are too many for the interpreter, and tell nothing new about the compiler."""
    yield fibers
    assert fibers.emulator.report() == []


# ---- greedy --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 31, 33, 1000, 1025, 9000])
def test_greedy_is_the_exact_argmax_and_the_lowest_id_on_ties(cuda, everywhere, n):
    rng = np.random.default_rng(n)
    few = rng.integers(-3, 3, (4, n)).astype(np.float32)  # many ties
    few[3] = 1.0
    few[3, n // 2 :] = np.nextafter(np.float32(1), np.float32(2))
    got = everywhere(lambda: sample(cuda, few, [(0, 0, 1, 0, 1, 0.5)] * 4, n_rows=5))
    np.testing.assert_array_equal(got, few.argmax(axis=-1))


def test_greedy_over_infinities_signed_zeros_and_nan(source):
    for logits, wanted in (
        ([0.0, np.inf, np.inf], -1), ([-np.inf, -np.inf, -3e38], 2), ([-np.inf] * 40, -1),
        ([-0.0, 0.0, -1], 0), ([np.nan, 1, 2], 2), ([np.nan] * 40, -1), ([np.nan] * 39 + [-5], 39),
        ([-np.inf, np.nan], -1),
    ):  # fmt: skip
        assert greedy(source, np.array(logits, np.float32)) == wanted
        if wanted != 0:  # what a draw with top_p finds there, too
            assert sample(source, np.array(logits, np.float32), [(1, 0, 0.5, 0, 1, 0.5)])[0] == wanted


# ---- drawing -------------------------------------------------------------------------------------


def check_draws(case, uniforms, drawn):
    """Every uniform finds the id in whose interval it lies, unless it lies within 1e-5 of a border."""
    ids, p = sampling_weights(case.logits(), *case.settings)
    edges = np.cumsum(p)
    after = np.searchsorted(edges, uniforms, side="right")
    around = np.minimum(np.abs(uniforms - edges[np.maximum(after - 1, 0)]),
                        np.abs(uniforms - edges[np.minimum(after, len(p) - 1)]))  # fmt: skip
    inside = (around > 1e-5) | (len(p) == 1)
    assert inside.any() or len(p) > 10000
    wanted = ids[np.minimum(after, len(ids) - 1)]
    np.testing.assert_array_equal(drawn[inside], wanted[inside])
    places = np.searchsorted(ids, drawn)
    assert np.array_equal(ids[np.minimum(places, len(ids) - 1)], drawn)
    assert np.abs(np.cumsum(p)[places] - p[places] / 2 - uniforms).max() < p.max() + 1e-5


COMPILED = (0, 3, 7, 12, 18, 19)
"""Cases that take every way through the kernels, for the interpreter."""


@pytest.mark.parametrize("case", SAMPLE + CUDA_CASES, ids=str)
def test_draws_by_inverse_transform(cuda, level, case):
    if level == "ptx" and case not in [SAMPLE[i] for i in COMPILED]:
        pytest.skip("other cases take every way through the kernels")
    n = 4 if level == "ptx" else 16 if case.vocab_size < 2000 else 6
    uniforms = np.random.default_rng(2).random(n).astype(np.float32)
    check_draws(case, uniforms, draws(cuda, case, uniforms))


SCHEDULED = [*(SAMPLE[i] for i in (1, 12, 18)), SampleCase(9001, 0.8, top_p=0.9, spread=4.0)]


@pytest.mark.parametrize("case", SCHEDULED, ids=str)
def test_schedules_draw_alike(cuda, everywhere, case):
    uniforms = np.random.default_rng(3).random(6).astype(np.float32)
    check_draws(case, uniforms, everywhere(lambda: draws(cuda, case, uniforms)))


@pytest.mark.parametrize("seed", range(12))
def test_any_row(cuda, level, seed):
    """Ties, forbidden ids, sorted rows, every combination of settings."""
    if level == "ptx" and seed not in (1, 3):
        pytest.skip("two rows are enough for the compiler")
    check_any_row(lambda logits, hows: sample(cuda, logits, hows), seed, 5000, 4, 6)


def survivors(cuda, logits, settings, n_uniforms=16):
    """What uniforms everywhere draw."""
    return set(sample(cuda, logits, [(*settings, u) for u in np.linspace(0, LAST, n_uniforms)]).tolist())


@pytest.mark.parametrize("top_k", [1, 2, 3, 6])
def test_ties_at_the_border_of_top_k_keep_the_lowest_ids(source, top_k):
    assert survivors(source, np.zeros(40, np.float32), (1, top_k, 1, 0, 1)) == set(range(top_k))


def test_ties_at_borders_keep_the_lowest_ids(source):
    """Whatever comes after, and among other logits: 0 is forbidden, 1 is likelier."""
    n = 16
    logits = np.zeros(n, np.float32)
    logits[0], logits[1] = -np.inf, 1.0
    assert survivors(source, logits, (1, n // 4, 1, 0, 1), 2 * n) == set(range(1, n // 4 + 1))
    assert survivors(source, logits, (1, n // 4, 0.5, 0, 1), 2 * n) < set(range(1, n // 4 + 1))
    half = survivors(source, logits, (1, 0, 0.5, 0, 1), 2 * n)
    assert half == set(range(1, len(half) + 1))
    assert abs(len(half) - n / 2) < 2
    assert survivors(source, logits, (1, n // 4, 1, 0.5, 1)) == {1}
    # All of the same information are as typical as the first of them.
    assert survivors(source, logits, (1, n // 4, 1, 0, 0.1), 2 * n) == set(range(2, n // 4 + 1))


@pytest.mark.parametrize(
    "settings", [(1, 20000, 1, 0, 1), (1, 0, 0.5, 0, 1), (1, 20000, 1, 0.1, 0.5)], ids=str
)
def test_tens_of_thousands_of_ties(source, settings):
    logits = np.full(40000, 2.5, np.float32)
    uniforms = np.array([0.0, 0.25, 0.5, LAST])
    drawn = sample(source, logits, [(*settings, u) for u in uniforms])
    np.testing.assert_array_equal(drawn, np.floor(20000 * uniforms))


def test_top_p_keeps_the_token_that_reaches_it(source):
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.125], np.float32))
    for top_p, n in ((0.0, 1), (0.45, 1), (0.55, 2), (0.8, 3), (0.95, 4)):
        assert survivors(source, logits, (1, 0, top_p, 0, 1), 12) == set(range(n)), top_p


def test_typical_p_may_drop_the_likeliest(source):
    """-log2 p is 1, 3, 3, 3, 3, the entropy 2, as far from the one as from the others."""
    logits = np.log(np.array([0.5, 0.125, 0.125, 0.125, 0.125])).astype(np.float32)
    logits[0] -= 0.1  # less likely: the entropy grows, and nears the others
    assert survivors(source, logits, (1, 0, 1, 0, 0.4), 12) == {1, 2, 3, 4}
    assert survivors(source, logits, (1, 0, 1, 0, 0.6), 12) == {0, 1, 2, 3, 4}
    logits[0] += 0.2
    assert survivors(source, logits, (1, 0, 1, 0, 0.4), 12) == {0}
    assert survivors(source, logits, (1, 0, 1, 0, 0.0), 12) == {0}


@pytest.mark.parametrize("temperature", [1e-6, 1e-38, 1e-45])
def test_a_tiny_temperature_is_greedy(source, temperature):
    logits = np.array([0.5, 1.0, 3.0, 2.0], np.float32)
    for rest in ((0, 1, 0, 1), (3, 1, 0, 1), (0, 0.9, 0.1, 0.9)):
        assert survivors(source, logits, (temperature, *rest), 5) == {2}


@pytest.mark.parametrize("temperature", [1e30, np.inf])
def test_a_huge_temperature_is_even(source, temperature):
    logits = np.array([0.5, -np.inf, 3.0, -2.0], np.float32)
    for rest in ((0, 1, 0, 1), (0, 1, 1, 1), (0, 1, 0.5, 0.99)):
        assert survivors(source, logits, (temperature, *rest), 20) == {0, 2, 3}


def test_rows_do_not_see_each_other(cuda, everywhere):
    rng = np.random.default_rng(4)
    logits = rng.standard_normal((12, 131)).astype(np.float32)
    how = list(zip(
        rng.choice([0, 0.5, 1.0], 12), rng.choice([0, 7, 131], 12), rng.choice([1.0, 0.9], 12),
        rng.choice([0, 0.05], 12), rng.choice([1.0, 0.8], 12), rng.random(12), strict=True))  # fmt: skip
    whole = everywhere(lambda: sample(cuda, logits, how))
    for n in (1, 5, 11):
        np.testing.assert_array_equal(sample(cuda, logits[:n], how[:n], n_rows=12), whole[:n])
        np.testing.assert_array_equal(sample(cuda, logits[-n:], how[-n:]), whole[-n:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scratch_bytes": 9}, f"sample: scratch_bytes is 9, wanted {2 * SCRATCH} for 2 rows"),
        ({"vocab_size": 0}, "sample: vocab_size is 0, wanted a positive multiple of 1"),
        ({"vocab_size": 524289}, "sample: vocab_size is 524289, wanted at most 524288"),
        (
            {"scratch_bytes": 2 * SCRATCH - 1},
            f"scratch_bytes is {2 * SCRATCH - 1}, wanted {2 * SCRATCH} for 2",
        ),
        ({"out": None}, "sample: out is missing"),
    ],
)
def test_refuses(fibers, change, message):
    value = put(fibers, np.zeros(8), "float32").array
    good = dict.fromkeys(("logits", "sampling", "out", "scratch"), value)
    good |= {"vocab_size": 8, "scratch_bytes": 1 << 20, "rows": rows(fibers, 2)}
    with pytest.raises(ValueError, match=message):
        fibers.ops.sample({"n_tokens": 2}, **(good | change))
