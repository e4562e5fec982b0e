"""What steps cost, and how many drafts are worth it."""

from __future__ import annotations

import random
from array import array

import pytest

from lanner.drafts import MOST_DRAFTS, Copying, Plan
from lanner.sequence import NO_DRAFTS, Sequence
from lanner.step_costs import StepCosts
from lanner.step_times import MOST


def learned(cost, sizes=(1, 2, 4, 8, 12, 17), rounds=30, noise=0.0, speed=lambda i: 0.005):
    costs, rng = StepCosts(), random.Random(1)
    for i in range(rounds):
        for n in sizes:
            costs.observe(n, speed(i) * cost(n) * (1 + noise * rng.uniform(-1, 1)))
    return costs


def rising(n):
    return 1 + 0.1 * (n - 1)


def test_costs_are_learned_and_lie_on_a_line_between():
    costs = learned(rising)
    for n in range(1, 18):
        assert costs.seconds(n) / costs.seconds(1) == pytest.approx(rising(n), rel=0.02)
    assert costs.seconds(1) == pytest.approx(0.005, rel=0.02)
    assert costs.seconds(30) > costs.seconds(17)


def test_a_slower_machine_is_slower_for_all_sizes():
    costs = learned(rising)
    before = costs.seconds(8) / costs.seconds(1)
    for _ in range(20):
        costs.observe(1, 0.010)
    assert costs.seconds(1) == pytest.approx(0.010, rel=0.1)
    assert costs.seconds(8) / costs.seconds(1) == pytest.approx(before, rel=0.15)


def test_noise_and_a_step_that_was_held_up():
    costs = learned(rising, noise=0.3, rounds=100)
    assert costs.seconds(8) / costs.seconds(1) == pytest.approx(rising(8), rel=0.15)
    costs.observe(8, 100.0)
    assert costs.seconds(8) / costs.seconds(1) == pytest.approx(rising(8), rel=0.25)
    costs.observe(8, 0.0)  # a clock that stands still says nothing


def test_a_size_that_was_held_up_when_it_was_new_is_tried_again():
    costs = learned(rising, sizes=(1, 4, 17))
    before = costs.cost(8) / costs.cost(1)
    costs.observe(8, 0.100)
    assert costs.cost(8) / costs.cost(1) > 1.5 * before
    for _ in range(256):
        costs.observe(1, 0.005)
    assert costs.cost(8) / costs.cost(1) == pytest.approx(before, rel=0.05)
    assert costs.seconds(4) / costs.seconds(1) == pytest.approx(rising(4), rel=0.05)


class Open(Sequence):
    """A sequence that could go on for ever."""

    n_draftable = 1000

    def __init__(self, drafter=None):
        super().__init__([1, 2])
        self.drafter = drafter

    def take(self, outputs, first_row, n_rows):
        raise AssertionError("nothing runs here")

    def end(self, reason):
        self._open_gate()


class Fixed:
    """A drafter that always knows its chances."""

    def __init__(self, chances, step_s=0.0):
        self.wanted, self.step_s, self.n_asked = chances, step_s, 0

    def follow(self):
        pass

    def chances(self, n_most):
        return self.wanted[:n_most]

    def ask(self, n_drafts):
        self.n_asked = n_drafts

    def answer(self):
        return array("i", [7] * self.n_asked)

    def end(self):
        pass


def planned(drafters, costs=None, n_most=64):
    plan, sequences = Plan(), [Open(each) for each in drafters]
    plan.costs = costs or learned(rising)
    plan.draft(sequences, n_most)
    return [len(each.drafts) for each in sequences]


def powers(p, n=MOST_DRAFTS):
    return [p ** (i + 1) for i in range(n)]


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
        guess = copying.answer()[0] if copying.chances(1) else None
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
