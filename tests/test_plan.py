"""How many drafts are worth it, and what planning them may take."""

from __future__ import annotations

import itertools
import math
import random
import time
from array import array
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanner.draft_model import _FORGET, DraftModel, Experience
from lanner.drafts import MOST_DRAFTS, Copying, Plan
from lanner.sequence import NO_DRAFTS
from lanner.step_times import MOST
from planning import Fixed, Open, learned, planned, powers, rising


def best_alone(p, step_s=0.0):
    """The number that gives most tokens per second, by trying all."""

    def rate(n):
        return (1 + sum(powers(p, n))) / (0.005 * rising(1 + n) + n * step_s)

    best = max(range(MOST_DRAFTS + 1), key=rate)
    return best if rate(best) > 1.03 * rate(0) else 0


@pytest.mark.parametrize("p", [0.0, 0.05, 0.1, 0.2, 0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("step_s", [0.0, 0.001, 0.004, 0.02])
def test_as_many_drafts_as_pay(p, step_s):
    costs = learned(rising, sizes=range(1, 18))
    assert abs(planned([Fixed(powers(p), step_s)], costs)[0] - best_alone(p, step_s)) <= 1


def test_several_share_a_step():
    counts = planned([Fixed(powers(0.9)), Fixed(powers(0.1)), Fixed(powers(0.9))])
    assert counts[0] == counts[2] > 3
    assert counts[1] <= 1
    assert sum(planned([Fixed(powers(0.9))] * 3, n_most=5)) <= 5
    assert planned([Fixed([]), None]) == [0, 0]


def test_who_drafts_not_waits_no_longer_than_for_a_prompt():
    costs = learned(rising, sizes=range(1, 30))
    (n, _), (free,) = planned([Fixed(powers(0.99)), None], costs), planned([Fixed(powers(0.99))], costs)
    assert rising(2 + n) <= MOST * rising(2) < rising(2 + n + 2)
    assert free == MOST_DRAFTS


def drafted(text, n_known, costs=None):
    """How many drafts each token after the first n_known was preceded by."""
    ids, plan, counts = array("i", text[:n_known]), Plan(), []
    sequence = Open(Copying(ids))
    plan.costs = costs or learned(rising)
    for token in text[n_known:]:
        sequence.drafts = NO_DRAFTS
        plan.draft([sequence], 64)
        counts.append(len(sequence.drafts))
        ids.append(token)
    return counts


def test_nothing_accepted_means_no_drafts():
    """Two tokens have nearly always come before, sometimes three, and what comes next is never the same."""
    rng, copying = random.Random(3), Copying(array("i", [1, 2, 3, 1, 2]))
    plan, sequence, counts = Plan(), Open(copying), []
    plan.costs = learned(rising)
    for _ in range(3000):
        sequence.drafts = NO_DRAFTS
        plan.draft([sequence], 64)
        counts.append(len(sequence.drafts))
        copying.ask(1)
        guess = copying.answer(math.inf)[0] if copying.chances(1) else None
        copying._ids.append(rng.choice([id for id in range(30) if id != guess]))
    assert 0 < sum(counts) < 40
    assert sum(counts[-1000:]) <= 5  # a match of five tokens is rare, and the first of its kind


def test_copies_are_drafted():
    source = [i * 7 % 501 + 3 for i in range(200)]
    counts = drafted(source * 2, len(source) + 1)
    assert counts[0] == 0  # one token is no match
    assert counts[-MOST_DRAFTS:] == [MOST_DRAFTS] * MOST_DRAFTS
    assert sum(counts[:20]) > 60


def test_where_steps_grow_as_tokens_do_nothing_is_drafted():
    source = [i * 7 % 501 + 3 for i in range(200)]
    assert sum(drafted(source * 2, len(source) + 1, learned(float))) == 0


# --- planning -----------------------------------------------------------------------------------------------
def all_ways(chances, steps_s, costs, n_most):
    """Tokens per second of the best of all numbers of drafts, and without any."""

    def rate(counts):
        expected = len(chances) + sum(sum(each[:n]) for each, n in zip(chances, counts, strict=True))
        before_s = max((s * n for s, n in zip(steps_s, counts, strict=True)), default=0.0)
        return expected / (costs.seconds(len(chances) + sum(counts)) + before_s)

    ways = itertools.product(*(range(len(each) + 1) for each in chances))
    return max(rate(counts) for counts in ways if sum(counts) <= n_most), rate([0] * len(chances)), rate


CHANCES = st.lists(st.floats(0.02, 1.0), max_size=4).map(lambda each: sorted(each, reverse=True))


@given(
    st.lists(st.tuples(CHANCES, st.booleans()), min_size=1, max_size=4),
    st.sampled_from([1e-5, 0.0005, 0.002, 0.01]),
    st.sampled_from([0.02, 0.1, 0.5, 1.0]),
    st.integers(1, 12),
)
@settings(deadline=None)
def test_the_best_of_all_ways_is_found(drafters, step_s, slope, n_most):
    """But for what planning itself takes, some microseconds of steps of 5 ms."""
    costs = learned(lambda n: 1 + slope * (n - 1), sizes=range(1, 17), rounds=3)
    chances, steps_s = [each for each, _ in drafters], [step_s * is_dear for _, is_dear in drafters]
    counts = planned([Fixed(*each) for each in zip(chances, steps_s, strict=True)], costs, n_most)
    best, alone, rate = all_ways(chances, steps_s, costs, n_most)
    if any(counts):
        assert sum(counts) <= n_most
        assert rate(counts) > 1.03 * alone
        assert rate(counts) >= 0.97 * best
    else:
        assert best <= 1.03 * alone * 1.03


class Broken(Fixed):
    """Fails in one of its calls."""

    def __init__(self, call):
        super().__init__(powers(0.9))
        self.ends = 0
        setattr(self, call, self.fail)

    def fail(self, *args):
        raise MemoryError("no room for drafts")

    def end(self):
        self.ends += 1
        raise RuntimeError("nor for an end")


@pytest.mark.parametrize("call", ["follow", "chances", "ask", "answer"])
def test_a_drafter_that_raises_is_dropped(call):
    broken = Broken(call)
    plan, sequences = Plan(), [Open(broken), Open(Fixed(powers(0.9)))]
    plan.costs = learned(rising)
    plan.draft(sequences, 64)
    assert sequences[0].drafter is None
    assert not sequences[0].drafts
    assert broken.ends == 1
    assert len(sequences[1].drafts) > 2
    sequences[1].drafts = NO_DRAFTS
    plan.draft(sequences, 64)
    assert len(sequences[1].drafts) > 2


class Slow(Fixed):
    """Thinks for a while, in vain or not, and counts how often."""

    n_turns = 0

    def follow(self, turn):
        self.n_turns += 1
        end = time.perf_counter() + 0.002
        while time.perf_counter() < end:
            pass


@pytest.mark.parametrize(("chance", "n_turns"), [(0.02, (2, 40)), (0.9, (200, 200))])
def test_planning_in_vain_takes_a_small_share_of_the_time(chance, n_turns):
    """Of 200 steps of 5 ms: 2 ms each would be 40 %; where drafts come of it every step is planned."""
    plan, drafter = Plan(), Slow(powers(chance))
    plan.costs = learned(rising)
    for _ in range(200):
        plan.draft([Open(drafter)], 64)
    assert n_turns[0] <= drafter.n_turns <= n_turns[1]


def test_a_plan_waits_until_one_deadline():
    """For two drafts that never come: their patience is one of 0.25 s, or less by a deadline."""
    for deadline_s, limits in ((math.inf, (0.24, 0.48)), (0.05, (0.04, 0.24))):
        experience, engine = Experience(), SimpleNamespace(submit=lambda sequences: None)
        sequences = [Open() for _ in range(2)]
        for each in sequences:
            each.drafter = DraftModel(engine, each, 100, experience)
        plan = Plan()
        plan.costs = learned(rising)
        started_s = time.perf_counter()
        plan.draft(sequences, 64, started_s + deadline_s)
        assert limits[0] < time.perf_counter() - started_s < limits[1]
        assert not any(each.drafts for each in sequences)
        assert all(each.drafter._is_asked for each in sequences)


def test_a_turn_forgets_once():
    experience = Experience()
    experience.step_s = 0.1
    drafters = [DraftModel(None, Open(), 100, experience) for _ in range(8)]
    for turn in (1, 2):
        for each in drafters:
            each.follow(turn)
            each.ask(0)
    assert experience.step_s == pytest.approx(0.1 * _FORGET**2)
