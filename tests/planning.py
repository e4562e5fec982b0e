"""Costs of steps that were learned, and drafters without a model, for tests of plans."""

from __future__ import annotations

import random
from array import array

from lanner.drafts import MOST_DRAFTS, Plan
from lanner.sequence import Sequence
from lanner.step_costs import StepCosts


def learned(cost, sizes=(1, 2, 4, 8, 12, 17), rounds=30, noise=0.0, speed=lambda i: 0.005):
    costs, rng = StepCosts(), random.Random(1)
    for i in range(rounds):
        for n in sizes:
            costs.observe(n, speed(i) * cost(n) * (1 + noise * rng.uniform(-1, 1)))
    return costs


def rising(n):
    return 1 + 0.1 * (n - 1)


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

    def follow(self, turn):
        pass

    def chances(self, n_most):
        return self.wanted[:n_most]

    def ask(self, n_drafts):
        self.n_asked = n_drafts

    def answer(self, deadline_s):
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
