"""Drafts: tokens that are guessed for some sequences, so that one step verifies several of them.

A step computes the drafts behind the known tokens of a sequence, and a token is chosen from every row as it
would have been without them: as long as it is the draft, the next row counts too. Drafts change when
something is computed, never what.
"""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, Protocol

from lanner._blocks import Lookup
from lanner.step_costs import StepCosts
from lanner.step_times import MOST

if TYPE_CHECKING:
    from collections.abc import Sequence as Sequences

    from lanner.sequence import Sequence

MOST_DRAFTS = 16
"""Of a sequence in a step: with the likeliest of copies a step of 17 tokens gives 10 for the time of 2."""

_GAIN = 1.03
"""Drafts must promise so many times the tokens per second without them: estimates have errors."""


class Drafter(Protocol):
    """Guesses how a sequence goes on, and how likely that is."""

    @property
    def step_s(self) -> float:
        """Seconds that each draft costs before the step."""

    def follow(self) -> None:
        """Takes notice of the tokens that the sequence has now."""

    def chances(self, n_most: int) -> Sequences[float]:
        """How likely it is that the first draft is right, the first two, ...: at most n_most, not rising."""

    def ask(self, n_drafts: int) -> None:
        """Begins to make so many, of those that `chances` spoke of; called before every step, with 0 too."""

    def answer(self) -> array[int]:
        """What came of the last `ask`."""

    def end(self) -> None:
        """The sequence has ended."""


class Plan:
    """Decides how many drafts each sequence of a step gets: those that promise most tokens per second."""

    def __init__(self) -> None:
        self.costs = StepCosts()

    def draft(self, sequences: Sequences[Sequence], n_most: int) -> None:
        """Gives `drafts`, n_most in all, to some sequences of a step, which all want one token."""
        drafting = [each for each in sequences if each.drafter is not None and each.n_draftable > 0]
        if not drafting:
            return
        chances: list[Sequences[float]] = []
        for each in drafting:
            assert each.drafter is not None
            each.drafter.follow()
            chances.append(each.drafter.chances(min(each.n_draftable, n_most, MOST_DRAFTS)))
        steps_s = [each.drafter.step_s for each in drafting if each.drafter is not None]
        # Who reads the stream of a sequence without drafts sees a longer step as a pause.
        most = math.inf if len(drafting) == len(sequences) else MOST
        counts = self._best(chances, steps_s, len(sequences), n_most, most)
        for each, count in zip(drafting, counts, strict=True):
            assert each.drafter is not None
            each.drafter.ask(count)  # all begin before the first is waited for
        for each, count in zip(drafting, counts, strict=True):
            if count and each.drafter is not None:
                each.drafts = each.drafter.answer()

    def _best(
        self,
        chances: Sequences[Sequences[float]],
        steps_s: Sequences[float],
        n_tokens: int,
        n_most: int,
        most: float,
    ) -> list[int]:
        """The number of drafts of each, given their chances, beside n_tokens that are known.

        The step takes at most `most` times as long as without.
        """
        best = [0] * len(chances)
        if not any(chances):
            return best
        # Seconds, or the unit of the costs before the first step.
        alone_s = self.costs.seconds(n_tokens) or self.costs.cost(n_tokens)
        best_rate = _GAIN * n_tokens / alone_s
        depths = sorted(
            {0, *(j + 1 for c, s in zip(chances, steps_s, strict=True) if s for j in range(len(c)))}
        )
        for depth in depths:  # of those that cost time before the step, which passes for all at once
            likely = sorted(
                (-chance, place, i)
                for i, each in enumerate(chances)
                for place, chance in enumerate(each[:depth] if steps_s[i] else each)
            )
            before_s = depth * max(steps_s)
            expected = float(n_tokens)
            for n, (chance, _, _) in enumerate(likely[:n_most], start=1):
                expected -= chance
                seconds = self.costs.seconds(n_tokens + n) or self.costs.cost(n_tokens + n)
                if seconds > most * alone_s:
                    break
                if expected / (seconds + before_s) > best_rate:
                    best_rate = expected / (seconds + before_s)
                    best = [0] * len(chances)
                    for _, _, i in likely[:n]:
                        best[i] += 1
        return best


# --- copies -------------------------------------------------------------------------------------------------
_LENGTHS = (0, 1, 2, 3, 4, 5, 8, 16, 32)
"""Matches of so many tokens, and up to the next of these, are alike."""

_PRIORS = (0.3, 0.4, 0.1, 0.25, 0.4, 0.5, 0.65, 0.8, 0.9)
"""How often the token after such a match is the same too, before a text has shown it."""

_PRIOR_WEIGHT = 3.0  # as many tokens
_MEMORY = 0.98  # of a text: its last fifty tokens after such matches
_LEAST = 0.02  # no further drafts that are less likely: a token costs a share of a step
_REPAIRED = 8  # tokens that matched, after which one that does not may have been replaced

_KIND = [max(i for i, length in enumerate(_LENGTHS) if length <= n) for n in range(_LENGTHS[-1] + 1)]


class Copying:
    """A drafter that goes on as the same tokens went on before, in the prompt or in what was generated.

    It follows the place that the text is a copy of, and knows after every token whether that was right,
    drafted or not: what it says of its chances costs no step.
    """

    step_s = 0.0

    def __init__(self, ids: array[int]) -> None:
        self._ids = ids  # of the sequence; they grow
        self._lookup: Lookup | None = None
        self._n_seen = 0
        self._place, self._length = -1, 0  # what is to come next, and how many tokens before it agreed
        self._hits = [_PRIOR_WEIGHT * prior for prior in _PRIORS]
        self._tries = [_PRIOR_WEIGHT] * len(_PRIORS)
        self._n_asked = 0

    def follow(self) -> None:
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
        is_right, kind = self._ids[place] == self._ids[i], _kind(self._length)
        prior = _PRIOR_WEIGHT * (1 - _MEMORY)
        self._hits[kind] = _MEMORY * self._hits[kind] + prior * _PRIORS[kind] + is_right
        self._tries[kind] = _MEMORY * self._tries[kind] + prior + 1
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
        kind = _kind(length)
        return self._hits[kind] / self._tries[kind]

    def chances(self, n_most: int) -> list[float]:
        """See Drafter."""
        made: list[float] = []
        if self._place < 0:
            return made
        chance = 1.0
        for i in range(n_most):
            chance *= self._chance(self._length + i)
            if chance < _LEAST:
                break
            made.append(chance)
        return made

    def ask(self, n_drafts: int) -> None:
        """See Drafter."""
        self._n_asked = n_drafts

    def answer(self) -> array[int]:
        """See Drafter."""
        assert self._lookup is not None
        return self._lookup.continuation(self._place, self._n_asked)

    def end(self) -> None:
        """See Drafter."""


def _kind(length: int) -> int:
    return _KIND[length] if length < len(_KIND) else len(_LENGTHS) - 1
