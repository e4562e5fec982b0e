"""Rounds of measurements: who runs when, and what else the machine did meanwhile."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from lanner.bench.model_results import Contender, ModelRun, Row

SETTLE_S = 0.05
"""Pause between two measurements: OpenMP's threads spin for milliseconds after their last parallel region."""

OTHERS_SHARE = 0.05
"""Share of the machine that other programs may take in a round; the clock that tells ticks every 10 ms."""


class Turn(NamedTuple):
    """What a contender's turn gave: a sample for each row, and the processor time that it accounts for."""

    values: tuple[float, ...]
    cpu_s: float


TakeTurn = Callable[[Contender, int], Turn]


@dataclass
class Rounds:
    """Lets contenders take turns, in an order that moves by one from round to round.

    `n_rounds` count; one more comes first and warms everybody up. There are fewer where the next one would
    end more than `row_s` seconds after the first began: at least one, which then is the first. A round in
    which other programs took more than `OTHERS_SHARE` of the machine is played again, until `patience_s` per
    row are over: one engine may suffer more from a disturbance than the other, and this is not what is
    measured.
    """

    run: ModelRun
    n_rounds: int
    patience_s: float
    row_s: float
    tell: Callable[[str], None]

    def play(self, rows: list[Row], contenders: list[Contender], turn: TakeTurn) -> None:
        """Add a sample per round to each row; `turn` gets the contender and the number of the round."""
        title = rows[0].title
        self.tell(title)
        begin = time.monotonic()
        disturbed: list[float] = []
        n_counted = -1  # the warm-up
        for index in itertools.count():
            wait_until_quiet(begin + self.patience_s)
            start = time.monotonic()
            samples, others = self._round(index, contenders, turn)
            is_quiet = others <= OTHERS_SHARE
            if not is_quiet and time.monotonic() < begin + self.patience_s:
                continue
            now = time.monotonic()
            is_last = 2 * now - start - begin > self.row_s
            if n_counted < 0 and is_last:
                n_counted = 0
            if n_counted >= 0:
                disturbed += [] if is_quiet else [others]
                for contender, values in samples.items():
                    for row, value in zip(rows, values, strict=True):
                        row.add(contender, value)
            n_counted += 1
            if n_counted == self.n_rounds or is_last:
                break
        if n_counted < self.n_rounds:
            self.run.notes.append(f"{title}: {n_counted} of {self.n_rounds} rounds, for want of time")
        if disturbed:
            self.run.notes.append(
                f"{title}: in {len(disturbed)} of {n_counted} rounds other programs took "
                f"{statistics.mean(disturbed):.0%} of the machine"
            )
        self.run.rows += rows

    def _round(
        self, index: int, contenders: list[Contender], turn: TakeTurn
    ) -> tuple[dict[Contender, tuple[float, ...]], float]:
        """The samples of everybody's turn, and the share of the machine that others took meanwhile."""
        samples, others_s, wall_s = {}, 0.0, 0.0
        first = index % len(contenders)
        for contender in contenders[first:] + contenders[:first]:
            time.sleep(SETTLE_S)
            start, before = time.perf_counter(), busy_s()
            samples[contender], cpu_s = turn(contender, index)
            others_s += busy_s() - before - cpu_s
            wall_s += time.perf_counter() - start
        return samples, others_s / (wall_s * (os.cpu_count() or 1))


def busy_s() -> float:
    """Processor seconds that this machine has spent, stolen ones included; 0 where it does not tell."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            fields = [int(field) for field in file.readline().split()[1:9]]
        user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def wait_until_quiet(deadline: float, threshold: float = 0.1, window_s: float = 0.2) -> None:
    """Wait until others use under `threshold` of one processor, or until `deadline` of time.monotonic()."""
    while time.monotonic() < deadline:
        before = busy_s()
        time.sleep(window_s)
        if busy_s() - before <= threshold * window_s + 0.01:  # the clock ticks every 10 ms
            return
