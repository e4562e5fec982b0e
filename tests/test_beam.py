"""Beam search as an algorithm: against all sequences that there are, and what it promises at its edges."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanner.beam import BeamScores

END = 1


def log_probs(ids: tuple[int, ...], vocab: int, seed: int = 0) -> np.ndarray:
    """float32 (vocab,), log-probabilities that depend on every token before."""
    logits = np.random.default_rng([seed, *ids]).normal(size=vocab) * 2
    return (logits - np.log(np.exp(logits).sum())).astype(np.float32)


def candidates(row: np.ndarray, n: int) -> tuple[list[int], list[float]]:
    """The n largest of a row in descending order, the lowest id first on ties."""
    order = np.argsort(-row, kind="stable")[:n]
    return order.tolist(), row[order].tolist()


def search(vocab: int, n_beams: int, seed: int = 0, **options: object) -> BeamScores:
    """Runs one to its end, with checks of every step."""
    scores = BeamScores(n_beams, end_ids=frozenset([END]), **options)
    live, totals = [()], [0.0]
    while not scores.is_done:
        rows = [log_probs(each, vocab, seed) for each in live]
        beams = scores.advance([candidates(row, scores.n_candidates) for row in rows])
        assert len(beams) <= n_beams and bool(beams) != scores.is_done
        assert sorted(beams, key=lambda beam: -beam.score) == beams
        for beam in beams:
            wanted = totals[beam.parent] + log_probs(live[beam.parent], vocab, seed)[beam.token]
            assert beam.score == pytest.approx(wanted, rel=1e-6)
        live = [(*live[beam.parent], beam.token) for beam in beams]
        totals = [beam.score for beam in beams]
        assert len(set(live)) == len(live)
    return scores


def total(tokens: tuple[int, ...], vocab: int, seed: int = 0) -> float:
    return math.fsum(float(log_probs(tokens[:i], vocab, seed)[token]) for i, token in enumerate(tokens))


def all_sequences(vocab: int, max_tokens: int) -> list[tuple[int, ...]]:
    """All that end with END or have max_tokens."""
    others = [id for id in range(vocab) if id != END]
    ended = [(*head, END) for n in range(max_tokens) for head in itertools.product(others, repeat=n)]
    return ended + list(itertools.product(others, repeat=max_tokens))


@pytest.mark.parametrize("length_penalty", [0.0, 0.5, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("seed", range(5))
def test_with_beams_for_all_sequences_it_finds_the_best(seed: int, length_penalty: float) -> None:
    vocab, max_tokens = 4, 4
    wanted = {
        tokens: total(tokens, vocab, seed) / len(tokens) ** length_penalty
        for tokens in all_sequences(vocab, max_tokens)
    }
    n = len(wanted)
    found = search(vocab, n, seed, max_tokens=max_tokens, length_penalty=length_penalty).hypotheses
    assert {each.tokens for each in found} == set(wanted)
    for each in found:
        assert each.score == pytest.approx(wanted[each.tokens], rel=1e-5)
    assert [each.tokens for each in found] == sorted(wanted, key=lambda tokens: -wanted[tokens])


@given(
    vocab=st.integers(2, 12),
    n_beams=st.integers(1, 6),
    max_tokens=st.integers(1, 12),
    length_penalty=st.sampled_from([-0.5, 0.0, 0.6, 1.0, 2.0]),
    early_stopping=st.sampled_from([False, True, "never"]),
    forced_last_id=st.sampled_from([None, END, 0]),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None)
def test_what_every_search_promises(
    vocab, n_beams, max_tokens, length_penalty, forced_last_id, seed, **options
):
    scores = search(
        vocab, n_beams, seed, max_tokens=max_tokens, length_penalty=length_penalty,
        forced_last_id=forced_last_id, **options,
    )  # fmt: skip
    found = scores.hypotheses
    assert 1 <= len(found) <= n_beams
    if forced_last_id is None:
        n_possible = sum((vocab - 1) ** n for n in range(max_tokens)) + (vocab - 1) ** max_tokens
        assert len(found) == min(n_beams, n_possible) or vocab == 2
        assert len({each.tokens for each in found}) == len(found)
    assert sorted(found, key=lambda each: -each.score) == found
    for tokens, score, reason in found:
        is_forced = forced_last_id is not None and len(tokens) == max_tokens
        assert len(tokens) <= max_tokens and END not in tokens[:-1]
        assert reason == ("length" if is_forced else "stop" if tokens[-1] == END else "length")
        assert tokens[-1] == forced_last_id if is_forced else tokens[-1] == END or len(tokens) == max_tokens
        wanted = total(tokens[:-1] if is_forced else tokens, vocab, seed) / len(tokens) ** length_penalty
        assert score == pytest.approx(wanted, rel=1e-5)


def step(scores: BeamScores, *rows: dict[int, float]) -> list[tuple[int, int, float]]:
    """One step with a candidate for every item of a row, as they stand."""
    return [tuple(beam) for beam in scores.advance([(list(row), list(row.values())) for row in rows])]


def beams(n: int, **options: object) -> BeamScores:
    return BeamScores(n, end_ids=frozenset([END]), **({"max_tokens": 9} | options))


def test_ties_go_to_the_earlier_parent_and_the_earlier_candidate() -> None:
    scores = beams(3)
    assert step(scores, {7: -1.0, 4: -1.0, 5: -1.0, 6: -1.0}) == [(0, 7, -1.0), (0, 4, -1.0), (0, 5, -1.0)]
    assert step(scores, {9: -2.0}, {8: -1.0, 9: -2.0}, {3: -1.0, 2: -2.0}) == [
        (1, 8, -2.0), (2, 3, -2.0), (0, 9, -3.0)
    ]  # fmt: skip


def test_an_end_behind_the_first_beams_is_dropped() -> None:
    scores = beams(2, early_stopping=True)
    assert step(scores, {5: -1.0, 6: -2.0, END: -3.0}) == [(0, 5, -1.0), (0, 6, -2.0)]
    assert not scores.hypotheses
    assert step(scores, {5: -1.0, END: -2.0}, {END: -0.5, 4: -3.0}) == [(0, 5, -2.0), (1, 4, -5.0)]
    assert scores.hypotheses == [((6, END), -1.25, "stop")]


def test_early_stopping_tells_when_it_is_over() -> None:
    """One hypothesis of mean -1, one live sequence of sum -3 after two tokens: is there hope?"""
    for early_stopping, length_penalty, is_done in (
        (True, 1.0, True),
        (False, 1.0, True),
        ("never", 1.0, False),
        ("never", 0.0, True),
    ):
        scores = beams(1, early_stopping=early_stopping, length_penalty=length_penalty)
        step(scores, {5: -1.0})
        step(scores, {END: -1.0, 5: -2.0})
        assert scores.is_done == is_done, (early_stopping, length_penalty)
    scores = beams(1, length_penalty=-1.0)
    step(scores, {END: -1.0, 5: -1.0})
    assert scores.is_done  # a tie is no improvement


def test_sequences_die_where_nothing_may_follow() -> None:
    scores = beams(2)
    assert len(step(scores, {5: -1.0, 6: -2.0})) == 2
    assert step(scores, {7: -1.0}, {7: -math.inf}) == [(0, 7, -2.0)]
    assert step(scores, {END: -1.0, 7: -math.inf}) == []
    assert scores.is_done and scores.hypotheses == [((5, 7, END), -1.0, "stop")]
    with pytest.raises(ValueError, match="every token is forbidden"):
        step(beams(2), {5: -math.inf})


def test_stops_are_asked_in_order_and_no_further_than_needed() -> None:
    asked = []

    def stops(parent: int, token: int) -> bool:
        asked.append((parent, token))
        return token in (5, 8)

    scores = beams(2, stops=stops)
    assert scores.n_candidates == 5
    assert step(scores, {5: -1.0, 6: -2.0, 8: -3.0, 4: -4.0, 3: -5.0}) == [(0, 6, -2.0), (0, 4, -4.0)]
    assert asked == [(0, 5), (0, 6), (0, 8), (0, 4)]
    assert scores.hypotheses == [((5,), -1.0, "stop")]


def test_closed_before_its_time() -> None:
    scores = beams(2)
    scores.close("cancelled")
    assert scores.hypotheses == [((), 0.0, "cancelled")]
    scores = beams(2)
    step(scores, {5: -1.0, END: -2.0, 6: -3.0})
    step(scores, {5: -1.0, 6: -5.0}, {7: -9.0})
    scores.close("deadline")
    assert scores.is_done and scores.hypotheses == [((5, 5), -1.0, "deadline"), ((END,), -2.0, "stop")]
    scores.close("cancelled")
    assert len(scores.hypotheses) == 2


def test_a_forced_end_costs_nothing_and_counts_as_a_token() -> None:
    scores = beams(2, max_tokens=3, forced_last_id=END)
    step(scores, {5: -1.0, 6: -2.0})
    assert step(scores, {5: -1.0, 6: -2.0}, {5: -1.0}) == []
    assert scores.hypotheses == [
        ((5, 5, END), pytest.approx(-2 / 3), "length"), ((5, 6, END), -1.0, "length")
    ]  # fmt: skip
    assert beams(2, max_tokens=1, forced_last_id=END).hypotheses == [((END,), 0.0, "length")]


def test_nan_is_an_error() -> None:
    with pytest.raises(FloatingPointError, match="infinite or NaN"):
        step(beams(2), {5: math.nan})
