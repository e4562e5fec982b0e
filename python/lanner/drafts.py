"""Drafts: tokens that are guessed for some sequences, so that one step verifies several of them.

A step computes the drafts behind the known tokens of a sequence, and a token is chosen from every row as it
would have been without them: as long as it is the draft, the next row counts too. Drafts change when
something is computed, never what.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import time
from array import array
from typing import TYPE_CHECKING, Protocol

from lanner._blocks import Lookup
from lanner.step_costs import StepCosts
from lanner.step_times import MOST, SURPRISE

if TYPE_CHECKING:
    from collections.abc import Sequence as Sequences

    from lanner.sequence import Sequence

MOST_DRAFTS = 16
"""Of a sequence in a step: with the likeliest of copies a step of 17 tokens gives 10 for the time of 2."""

_GAIN = 1.03
"""Drafts must promise so many times the tokens per second without them: estimates have errors."""

_SHARE = 0.01
"""Of the time of steps that planning may take where it gives no drafts: it pauses so long."""

_FIRST_S = 1e-5  # of planning, for each sequence, until it is known
_BLEND = 0.1  # ten plans


class Drafter(Protocol):
    """Guesses how a sequence goes on, and how likely that is. One that raises is not asked again."""

    @property
    def step_s(self) -> float:
        """Seconds that each draft costs before the step."""

    def follow(self, turn: int) -> None:
        """Takes notice of the tokens that the sequence has now; all drafters of a step have the same turn."""

    def chances(self, n_most: int) -> Sequences[float]:
        """How likely it is that the first draft is right, the first two, ...: at most n_most, not rising."""

    def ask(self, n_drafts: int) -> None:
        """Begins to make so many, of those that `chances` spoke of; called after it, with 0 too."""

    def answer(self, deadline_s: float) -> array[int]:
        """What came of the last `ask` until deadline_s, on the clock of time.perf_counter."""

    def end(self) -> None:
        """The sequence has ended, or does without drafts from now on."""


class Plan:
    """Decides how many drafts each sequence of a step gets: those that promise most tokens per second."""

    def __init__(self) -> None:
        self.costs = StepCosts()
        self._turn = 0
        self._each_s, self._pause_s = _FIRST_S, 0.0  # what planning takes for each sequence

    def draft(self, sequences: Sequences[Sequence], n_most: int, deadline_s: float = math.inf) -> None:
        """Gives `drafts`, n_most in all, to some sequences of a step, which all want one token.

        Drafts that have not come at deadline_s, on the clock of time.perf_counter, are not waited for.
        """
        started_s = time.perf_counter()
        alone_s = self.costs.seconds(len(sequences))
        self._pause_s -= alone_s
        if self._pause_s > 0:
            return
        self._turn += 1
        drafting, chances, steps_s = self._prospects(sequences, n_most)
        if not drafting:
            return
        # Who reads the stream of a sequence without drafts sees a longer step as a pause.
        most = math.inf if len(drafting) == len(sequences) else MOST
        counts = self._best(chances, steps_s, len(sequences), alone_s, n_most, most)
        for each, count in zip(drafting, counts, strict=True):
            if each.drafter is not None:
                try:
                    each.drafter.ask(count)  # all begin before the first is waited for
                except Exception:
                    _drop(each)
        seconds = (time.perf_counter() - started_s) / len(drafting)
        self._each_s += _BLEND * (min(seconds, SURPRISE * self._each_s) - self._each_s)
        self._pause_s = 0.0 if any(counts) else self._each_s * len(drafting) / _SHARE
        for each, count in zip(drafting, counts, strict=True):
            if count and each.drafter is not None:
                try:
                    each.drafts = each.drafter.answer(deadline_s)
                except Exception:
                    _drop(each)

    def _prospects(
        self, sequences: Sequences[Sequence], n_most: int
    ) -> tuple[list[Sequence], list[Sequences[float]], list[float]]:
        """Those that can use drafts, their chances, and what a draft of each costs before the step."""
        drafting: list[Sequence] = []
        chances: list[Sequences[float]] = []
        steps_s: list[float] = []
        n_most = min(n_most, MOST_DRAFTS)
        for each in sequences:
            drafter = each.drafter
            if drafter is None or (n_draftable := each.n_draftable) <= 0:
                continue
            try:
                drafter.follow(self._turn)
                made, step_s = drafter.chances(min(n_draftable, n_most)), drafter.step_s
            except Exception:
                _drop(each)
                continue
            drafting.append(each)
            chances.append(made)
            steps_s.append(step_s)
        return drafting, chances, steps_s

    def _best(
        self,
        chances: Sequences[Sequences[float]],
        steps_s: Sequences[float],
        n_tokens: int,
        alone_s: float,
        n_most: int,
        most: float,
    ) -> list[int]:
        """The number of drafts of each, given their chances, beside n_tokens that are known.

        The step takes at most `most` times as long as without, which is alone_s; 0 before the first step.
        """
        n_most = min(n_most, sum(map(len, chances)))
        if n_most <= 0:
            return [0] * len(chances)
        before_s = self._each_s * len(chances) if alone_s else 0.0
        alone_s, times = self._times(n_tokens, alone_s, n_most, most)
        likely = sorted(
            (p for each, s in zip(chances, steps_s, strict=True) if not s for p in each), reverse=True
        )
        dear = [each for each, s in zip(chances, steps_s, strict=True) if s]
        dearest_s, most_expected = max(steps_s), n_tokens + sum(map(sum, chances))
        best_rate, best = _GAIN * n_tokens / alone_s, (0, 0)
        for depth in range(MOST_DRAFTS + 1):  # of those that cost time before the step, for all at once
            if depth:
                added = [each[depth - 1] for each in dear if len(each) >= depth]
                if not added or (len(likely) >= len(times) and max(added) <= likely[len(times) - 1]):
                    break  # nor are those behind them among the likeliest
                likely = sorted(likely[: len(times)] + added, reverse=True)
                before_s += dearest_s
            if not times or most_expected <= best_rate * (min(times) + before_s):
                break  # not even with all of them in the shortest of the steps
            expected = float(n_tokens)
            for n, (chance, seconds) in enumerate(zip(likely, times, strict=False), start=1):
                expected += chance
                if expected > best_rate * (seconds + before_s):
                    best_rate, best = expected / (seconds + before_s), (depth, n)
        return _likeliest(
            [each[: best[0]] if s else each for each, s in zip(chances, steps_s, strict=True)], best[1]
        )

    def _times(self, n_tokens: int, alone_s: float, n_most: int, most: float) -> tuple[float, list[float]]:
        """Seconds of a step of n_tokens, and of 1, 2, ... more, while that is at most `most` times as long.

        Before the first step, where alone_s is 0, it is the unit of the costs.
        """
        time_of = self.costs.seconds if alone_s else self.costs.cost
        alone_s, times = time_of(n_tokens), []
        for n in range(n_tokens + 1, n_tokens + n_most + 1):
            if (seconds := time_of(n)) > most * alone_s:
                break
            times.append(seconds)
        return alone_s, times


def _likeliest(chances: Sequences[Sequences[float]], n: int) -> list[int]:
    """How many of each are among the n largest; of equal ones the first places are, then the first rows."""
    counts = [0] * len(chances)
    heap = [(-each[0], 0, i) for i, each in enumerate(chances) if each] if n else []
    heapq.heapify(heap)
    for _ in range(n):
        _, place, i = heap[0]
        counts[i] = place = place + 1
        if place < len(chances[i]):
            heapq.heapreplace(heap, (-chances[i][place], place, i))
        else:
            heapq.heappop(heap)
    return counts


def _drop(sequence: Sequence) -> None:
    """It goes on without drafts: they are a help, and no reason to fail."""
    drafter, sequence.drafter = sequence.drafter, None
    if drafter is not None:
        with contextlib.suppress(Exception):
            drafter.end()


# --- copies -------------------------------------------------------------------------------------------------
_LENGTHS = (0, 1, 2, 3, 4, 5, 8, 16, 32)
"""Matches of so many tokens, and up to the next of these, are alike."""

_PRIORS = (0.3, 0.4, 0.1, 0.25, 0.4, 0.5, 0.65, 0.8, 0.9)
"""How often the token after such a match is the same too, before a text has shown it."""

_PRIOR_WEIGHT = 3.0  # as many tokens
_MEMORY = 0.98  # of a text: its last fifty tokens after such matches
_LEAST = 0.02  # no further drafts that are less likely: a token costs a share of a step
_REPAIRED = 8  # tokens that matched, after which one that does not may have been replaced

_KIND = [max(i for i, least in enumerate(_LENGTHS) if least <= n) for n in range(_LENGTHS[-1] + MOST_DRAFTS)]


class Copying:
    """A drafter that goes on as the same tokens went on before, in the prompt or in what was generated.

    It follows the place that the text is a copy of, and knows after every token whether that was right,
    drafted or not: what it says of its chances costs no step.
    """

    step_s = 0.0

    def __init__(self, ids: array[int]) -> None:
        self._ids, self._n_seen = ids, 0  # of the sequence; they grow
        self._lookup: Lookup | None = None
        self._place, self._length = -1, 0  # what is to come next, and how many tokens before it agreed
        self._hits = [_PRIOR_WEIGHT * prior for prior in _PRIORS]
        self._tries = [_PRIOR_WEIGHT] * len(_PRIORS)
        self._shares = list(_PRIORS)
        self._n_asked = 0

    def follow(self, turn: int) -> None:
        """See Drafter."""
        n = len(self._ids)
        if self._lookup is None:
            self._lookup = Lookup(self._ids)
            self._find(n)
        else:
            for i in range(self._n_seen, n):
                self._see(i)
        self._n_seen = n

    def _see(self, i: int) -> None:
        place = self._place
        if place < 0:
            self._find(i + 1)
            return
        is_right, kind = self._ids[place] == self._ids[i], _KIND[min(self._length, _LENGTHS[-1])]
        prior = _PRIOR_WEIGHT * (1 - _MEMORY)
        self._hits[kind] = _MEMORY * self._hits[kind] + prior * _PRIORS[kind] + is_right
        self._tries[kind] = _MEMORY * self._tries[kind] + prior + 1
        self._shares[kind] = self._hits[kind] / self._tries[kind]
        if is_right:
            self._place, self._length = place + 1, self._length + 1
            return
        was_long = self._length >= _REPAIRED
        self._find(i + 1)
        if was_long and self._chance(0) > (self._chance(self._length) if self._place >= 0 else 0.0):
            self._place, self._length = place + 1, 0

    def _find(self, n: int) -> None:
        assert self._lookup is not None
        place, length = self._lookup.find(n)
        self._place, self._length = (place, length) if length else (-1, 0)

    def _chance(self, length: int) -> float:
        return self._shares[_KIND[min(length, _LENGTHS[-1])]]

    def chances(self, n_most: int) -> list[float]:
        """See Drafter."""
        made: list[float] = []
        if self._place < 0:
            return made
        chance, shares, start = 1.0, self._shares, min(self._length, _LENGTHS[-1])
        for kind in _KIND[start : start + n_most]:
            chance *= shares[kind]
            if chance < _LEAST:
                break
            made.append(chance)
        return made

    def ask(self, n_drafts: int) -> None:
        """See Drafter."""
        self._n_asked = n_drafts

    def answer(self, deadline_s: float) -> array[int]:
        """See Drafter; it has come already."""
        assert self._lookup is not None
        return self._lookup.continuation(self._place, self._n_asked)

    def end(self) -> None:
        """See Drafter."""
