"""What steps cost."""

from __future__ import annotations

import pytest

from planning import learned, rising


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
