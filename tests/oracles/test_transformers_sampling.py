"""Survivors and changed logits against transformers' logits processors, in their order."""

from __future__ import annotations

from array import array

import numpy as np
import pytest

from lanner import _core
from lanner.logit_rules import LogitRules
from lanner.sampling import SamplingParams

torch = pytest.importorskip("torch")
processors = pytest.importorskip("transformers.generation.logits_process")
pytestmark = pytest.mark.oracle

SETTINGS = [
    {"temperature": 0.7},
    {"temperature": 1.0, "top_k": 40},
    {"temperature": 1.3, "top_k": 3},
    {"temperature": 1.0, "top_p": 0.95},
    {"temperature": 0.6, "top_p": 0.5},
    {"temperature": 1.0, "min_p": 0.05},
    {"temperature": 1.5, "min_p": 0.3},
    {"temperature": 1.0, "typical_p": 0.95},
    {"temperature": 0.8, "typical_p": 0.2},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
    {"temperature": 1.0, "top_k": 500, "top_p": 0.9, "typical_p": 0.8},
    {"temperature": 0.9, "top_p": 0.97, "min_p": 0.01, "typical_p": 0.9},
]


def warped(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    """(vocab,) float64 after transformers' warpers, whose order is that of its `generate`."""
    scores = torch.from_numpy(logits.astype(np.float64))[None]
    chain = [processors.TemperatureLogitsWarper(params.temperature)]
    if params.top_k:
        chain.append(processors.TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        chain.append(processors.TopPLogitsWarper(params.top_p))
    if params.min_p:
        chain.append(processors.MinPLogitsWarper(params.min_p))
    if params.typical_p < 1:
        chain.append(processors.TypicalLogitsWarper(params.typical_p))
    for warper in chain:
        scores = warper(None, scores)
    return scores[0].numpy()


def draws(logits: np.ndarray, params: SamplingParams, uniforms: np.ndarray) -> np.ndarray:
    row = _core.LogitsRow(len(logits))
    row.copy(logits[None], 0)
    return np.array([row.sample(params.row, float(u)) for u in uniforms])


@pytest.mark.parametrize("vocab_size", [60, 1000, 32000])
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_survivors_and_their_intervals(options: dict[str, float], vocab_size: int) -> None:
    """One survivor more or less would move the interval of every other."""
    params = SamplingParams(**options)
    for seed, spread in enumerate((0.7, 2.0, 3.0, 5.0)):
        logits = np.random.default_rng(seed).standard_normal(vocab_size).astype(np.float32) * spread
        scores = warped(logits, params)
        ids = np.flatnonzero(np.isfinite(scores))
        p = np.exp(scores[ids] - scores[ids].max())
        p /= p.sum()
        likely = np.flatnonzero(p > 4e-6)  # a uniform has 24 bits, and the sums before it are rounded
        likely = likely[:: max(1, len(likely) // 500)]
        np.testing.assert_array_equal(draws(logits, params, (np.cumsum(p) - p / 2)[likely]), ids[likely])
        drawn = draws(logits, params, np.random.default_rng(seed).random(300).astype(np.float32))
        assert np.isin(drawn, ids).all()


@pytest.mark.parametrize("options", SETTINGS, ids=str)
@pytest.mark.parametrize("spread", [0.3, 1.0, 4.0])
def test_the_largest_vocabulary(options: dict[str, float], spread: float) -> None:
    """Survivors of 1e-6 each: what is drawn is one of them, and as far into them as its uniform says."""
    params = SamplingParams(**options)
    logits = np.random.default_rng(7).standard_normal(262144).astype(np.float32) * spread
    scores = warped(logits, params)
    mass = np.exp(scores - scores[np.isfinite(scores)].max())  # 0 where it is -inf
    edges = np.cumsum(mass) / mass.sum()
    uniforms = np.random.default_rng(8).random(40).astype(np.float32)
    drawn = draws(logits, params, uniforms)
    assert np.isfinite(scores[drawn]).all()
    low, high = edges[drawn] - mass[drawn] / mass.sum(), edges[drawn]
    # A border that rounding moves by an element moves sums by its share.
    slack = 2e-6 + 2 * mass[np.isfinite(scores)].min() / mass.sum()
    assert (low - slack <= uniforms).all()
    assert (uniforms <= high + slack).all()


class Digits:
    """Spells a text by its digits."""

    unk_id = None

    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        return [int(c) for c in text if c.isdigit()]


def changed(logits: np.ndarray, params: SamplingParams, prompt: list[int], text: list[int]) -> np.ndarray:
    rules = LogitRules(params, Digits(), prompt, {9})
    for token in text:
        rules.push(token)
    row = _core.LogitsRow(len(logits))
    row.copy(logits[None], 0)
    rules.apply(row)
    return row.array.copy()


@pytest.mark.parametrize("seed", range(40))
def test_rules_are_transformers_processors(seed: int) -> None:
    """Repetition penalty, bad words, bias, least number of new tokens; float32 there and here."""
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal(12) * 4).astype(np.float32)
    prompt, text = rng.integers(0, 9, 6).tolist(), rng.integers(0, 9, int(rng.integers(0, 6))).tolist()
    words = ["".join(map(str, prompt[-2:] + text))[-2:] + "5", "3", "71"]  # the first is about to be complete
    bias = {4: 1.5, 7: -2.25}
    params = SamplingParams(
        repetition_penalty=1.3, bad_words=words, logit_bias=bias, min_tokens=3, presence_penalty=0
    )
    ids, scores = torch.tensor([prompt + text]), torch.from_numpy(logits)[None]
    chain = [
        processors.RepetitionPenaltyLogitsProcessor(1.3),
        processors.SequenceBiasLogitsProcessor({(id,): each for id, each in bias.items()}),
        processors.NoBadWordsLogitsProcessor([[int(c) for c in word] for word in words]),
        processors.MinNewTokensLengthLogitsProcessor(len(prompt), 3, 9, device="cpu"),
    ]
    for processor in chain:
        scores = processor(ids, scores)
    wanted = scores[0].numpy()
    made = changed(logits, params, prompt, text)
    np.testing.assert_array_equal(np.isinf(made), np.isinf(wanted))
    assert np.isinf(made[5])
    assert np.isinf(made[3])
    finite = np.isfinite(wanted)
    # A product and a sum in either order of roundings: two each.
    scale = 2 * np.abs(logits[finite]) + np.abs(wanted[finite])
    assert np.all(np.abs(made[finite] - wanted[finite]) <= 4 * 2.0**-24 * scale)


def test_log_probs_are_torchs() -> None:
    logits = (np.random.default_rng(1).standard_normal((5, 50000)) * 4).astype(np.float32)
    ids = array("i", [0, 7, 49999, 123, 4])
    of_ids, top_ids, top = _core.log_probs(logits, 0, ids, 10, 2)
    wanted = torch.log_softmax(torch.from_numpy(logits).double(), -1)
    best = torch.topk(wanted, 10)
    np.testing.assert_array_equal(top_ids, best.indices.numpy())
    # The bound that lanner.ops.log_softmax states.
    for made, exact in ((top, best.values.numpy()), (of_ids, wanted.numpy()[np.arange(5), ids])):
        bound = 2.0**-24 * (2 * np.abs(exact) + 2.5 * np.log(50000) + 80)
        assert (np.abs(made - exact) <= bound).all()
