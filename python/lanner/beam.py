"""Beam search: which continuations of a few sequences go on, and which of those that ended are the best.

The algorithm alone: it sees log-probabilities and token ids, no model and no text.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from lanner.result import FinishReason

EarlyStopping = Literal[False, True, "never"]


class Continuation(NamedTuple):
    """A sequence of the next step: `token` behind the live sequence `parent`; `score` sums its log p."""

    parent: int
    token: int
    score: float


class Hypothesis(NamedTuple):
    """A sequence that ended. `score` is the sum of its log p divided by len(tokens) ** length_penalty."""

    tokens: tuple[int, ...]
    score: float
    finish_reason: FinishReason


class BeamScores:
    """The `n_beams` likeliest sequences, advanced a token at a time as transformers does it.

    A step ranks all continuations of the live sequences. Those that end, and are among the n_beams first, are
    hypotheses, of which the n_beams best are kept; of the others the n_beams first live on. Sums are float32.
    On ties the earlier parent is first, then the candidate that was given first.

    Args:
        n_beams: sequences that live at a time, and hypotheses that are kept; at least 1.
        max_tokens: tokens after which every sequence ends; at least 1.
        end_ids: tokens that end a sequence.
        length_penalty: 0 compares sums of log p, 1 their means; above 1 longer sequences are preferred.
        early_stopping: with n_beams hypotheses the search is over: True, at once; False, when the likeliest
            live sequence, were it to end now, would be no better than the worst of them; "never", when it
            could not even get better by max_tokens.
        forced_last_id: comes last, at no cost, in a sequence that has all of max_tokens but one, unless None.
        stops: stops(parent, token) tells whether a continuation ends for another reason. It is asked in the
            order of rank, only as often as needed.

    Attributes:
        hypotheses: those that are kept, best first; fewer than n_beams where no more sequences are possible.
        is_done: whether the search is over.
    """

    def __init__(
        self,
        n_beams: int,
        *,
        max_tokens: int,
        end_ids: frozenset[int],
        length_penalty: float = 1.0,
        early_stopping: EarlyStopping = False,
        forced_last_id: int | None = None,
        stops: Callable[[int, int], bool] | None = None,
    ) -> None:
        self.hypotheses: list[Hypothesis] = []
        self.is_done = False
        self._n_beams = n_beams
        self._max_tokens = max_tokens
        self._end_ids = end_ids
        self._length_penalty = length_penalty
        self._early_stopping = early_stopping
        self._forced_last_id = forced_last_id
        self._stops = stops
        self._n_tokens = 0  # of every live sequence
        self._live: list[tuple[int, ...]] = [()]
        self._scores = [0.0]
        self._end_by_force()

    @property
    def n_candidates(self) -> int:
        """Continuations of each live sequence that `advance` needs, or all where there are fewer.

        One more than its ends for every beam: so many live on, whatever ends. Stops come on top of the ends;
        were more than n_beams of the likeliest to stop at once, fewer sequences would live on.
        """
        return self._n_beams * (1 + (self._stops is not None)) + len(self._end_ids)

    def advance(self, candidates: Sequence[tuple[Sequence[int], Sequence[float]]]) -> list[Continuation]:
        """The sequences of the next step, likeliest first; none when the search is over.

        Args:
            candidates: for every live sequence, in the order in which the last call returned them, the ids of
                its n_candidates likeliest continuations and their log p, descending. Before the first call
                one sequence is alive, which is empty. What is at -inf does not count.

        Raises FloatingPointError for a log p that is NaN, ValueError where nothing can follow and nothing has
        ended.
        """
        totals = array("f")
        places: list[tuple[int, int]] = []
        for parent, (ids, log_probs) in enumerate(candidates):
            totals.extend(self._scores[parent] + log_p for log_p in log_probs)
            places.extend((parent, id) for id in ids)
        if any(map(math.isnan, totals)):
            raise FloatingPointError("the model's logits are infinite or NaN: no token can be chosen")
        self._n_tokens += 1
        is_last = self._n_tokens == self._max_tokens
        beams: list[Continuation] = []
        ended: list[Hypothesis] = []
        for rank, at in enumerate(sorted(range(len(totals)), key=lambda i: -totals[i])):
            (parent, token), score = places[at], totals[at]
            is_among_first = rank < self._n_beams
            if score == -math.inf or not (is_among_first or len(beams) < self._n_beams):
                break
            is_end = token in self._end_ids or (self._stops is not None and self._stops(parent, token))
            if not is_end and not is_last:
                beams.append(Continuation(parent, token, score))
            elif is_among_first:
                tokens = (*self._live[parent], token)
                ended.append(Hypothesis(tokens, self._final(score), "stop" if is_end else "length"))
        self._keep(ended)
        self._live = [(*self._live[beam.parent], beam.token) for beam in beams]
        self._scores = [beam.score for beam in beams]
        if not self._live and not self.hypotheses:
            raise ValueError("every token is forbidden: no token can be chosen")
        self.is_done = not self._live or self._is_good_enough()
        self._end_by_force()
        return [] if self.is_done else beams

    def close(self, finish_reason: FinishReason) -> None:
        """Ends the search before its time: live sequences become hypotheses, as long as they are."""
        if not self.is_done:
            self._end_live((), finish_reason)

    def _end_by_force(self) -> None:
        if not self.is_done and self._forced_last_id is not None and self._n_tokens + 1 == self._max_tokens:
            self._n_tokens += 1
            self._end_live((self._forced_last_id,), "length")

    def _end_live(self, last: tuple[int, ...], finish_reason: FinishReason) -> None:
        self._keep(
            [
                Hypothesis((*tokens, *last), self._final(score), finish_reason)
                for tokens, score in zip(self._live, self._scores, strict=True)
            ]
        )
        self.is_done = True

    def _keep(self, ended: list[Hypothesis]) -> None:
        ranked = sorted([*self.hypotheses, *ended], key=lambda each: -each.score)
        self.hypotheses = ranked[: self._n_beams]

    def _final(self, score: float, n_tokens: int | None = None) -> float:
        """The score of a sequence that ends, in float32 like every number here."""
        n_tokens = self._n_tokens if n_tokens is None else n_tokens
        return _float32(score / _float32(max(n_tokens, 1) ** self._length_penalty))

    def _is_good_enough(self) -> bool:
        if len(self.hypotheses) < self._n_beams or self._early_stopping is True:
            return len(self.hypotheses) == self._n_beams
        # The sum only falls: what a longer sequence can gain is a larger divisor.
        is_patient = self._early_stopping == "never" and self._length_penalty > 0
        best = self._final(self._scores[0], self._max_tokens if is_patient else None)
        return best <= self.hypotheses[-1].score


def _float32(x: float) -> float:
    """The nearest float32; of a sum or quotient of two float32 what float32 arithmetic gives."""
    return array("f", (x,))[0]
