"""A second model that guesses the tokens of the first, in a sequence that follows the other one."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from array import array
from typing import TYPE_CHECKING

from lanner._blocks import n_alike
from lanner.sequence import NO_DRAFTS, Sequence

if TYPE_CHECKING:
    from lanner.engine import Engine
    from lanner.result import FinishReason
    from lanner.sequence import Outputs, Stage
    from lanner.tokenizer import Tokenizer


class Draft(Sequence):
    """What the second model makes of a text: it computes what it is given, goes on greedily, and rests.

    While it rests it belongs to who asks; from `ask` on until `wait_for` is true to the engine of its model.
    It is a request of its own, so that it rests as soon as a step is over.
    """

    rests = True

    def __init__(self, *, priority: int) -> None:
        super().__init__((), priority=priority)
        self._n_made = self._n_wanted = 0
        self._answered = threading.Lock()  # held while it is with the engine

    @property
    def request(self) -> Draft:  # type: ignore[override]  # of one sequence, without a cycle of references
        """See Sequence."""
        return self

    @property
    def first(self) -> Draft:
        """See Request."""
        return self

    def ask(self, engine: Engine, ids: array[int], n_wanted: int) -> None:
        """Lets it compute ids and n_wanted tokens after them."""
        mine = self.token_ids
        same = n_alike(mine, ids)
        del mine[same:]
        mine.extend(ids[same:])
        self.n_same, self._n_made, self._n_wanted = same, 0, n_wanted
        self._answered.acquire(blocking=False)
        try:
            engine.submit([self])
        except BaseException:  # the model was closed, or Ctrl-C
            self.end("cancelled")
            raise

    def wait_for(self, seconds: float) -> bool:
        """Whether it rests, or has ended, within so many seconds."""
        if not self._answered.acquire(timeout=seconds):
            return False
        self._answer()
        return True

    def take(self, outputs: Outputs, first_row: int, n_rows: int) -> None:
        """See Sequence."""
        if self._n_made < self._n_wanted:
            token = int(outputs.sampled(first_row + n_rows)[-1])
            if token < 0:
                raise FloatingPointError("the logits of the draft model are infinite or NaN")
            self.token_ids.append(token)
            self._n_made += 1

    def after_step(self, stage: Stage) -> None:
        """See Request."""
        if self._n_made == self._n_wanted and not self.is_finished and not self.is_cancelled:
            stage.rest(self)
            self._answer()

    def end(self, reason: FinishReason) -> None:
        """See Sequence."""
        self._open_gate()
        self._answer()

    def fail(self, error: BaseException) -> None:
        """See Sequence; whose drafts they are goes on without."""
        super().fail(error)
        self._answer()

    def _answer(self) -> None:
        with contextlib.suppress(RuntimeError):  # nobody asked, or it has ended after its answer
            self._answered.release()


_PIECE = 64
"""Tokens that a draft model reads before a step of the other one, so long as it is behind: others wait."""

_CLOSE = 4  # tokens that it may be behind and still draft in the same turn
_PRIOR = 0.7  # of a draft, given those before it: what a smaller model of a family reaches
_PRIOR_WEIGHT = 2.0  # as many drafts
_MEMORY, _LONG_MEMORY = 0.9, 0.98  # of a request: its last ten drafts at a place; of all requests: fifty
_BLEND = 0.3
_LEAST = 0.02
_RETRY = 32  # tokens without drafts after which one is tried; each time twice as many
_FORGET = 0.9998  # a drafter that once seemed slow is tried again after some thousand tokens
_PATIENCE = 4.0  # times as long as thought, after which a step goes on without drafts
_LEAST_PATIENCE_S = 0.25


class Record:
    """How often drafts at each place behind the known tokens were right, given those before them."""

    def __init__(self, memory: float, weight: float) -> None:
        self._memory, self._weight = memory, weight
        self._hits: list[float] = []
        self._tries: list[float] = []

    def note(self, place: int, is_right: bool) -> None:
        """A draft was verified; those of places before it have been noted before."""
        if place == len(self._hits):
            self._hits.append(0.0)
            self._tries.append(0.0)
        self._hits[place] = self._memory * self._hits[place] + is_right
        self._tries[place] = self._memory * self._tries[place] + 1

    def share(self, place: int, prior: float) -> float:
        """How many are right; `prior` as far as nothing is known."""
        if place >= len(self._hits):
            return prior
        return (self._weight * prior + self._hits[place]) / (self._weight + self._tries[place])


class Experience:
    """What requests of one model have learned of another one that drafts for them; the engine thread's.

    Attributes:
        step_s: seconds for a draft, 0 before the first.
        record: of all requests.
    """

    def __init__(self) -> None:
        self.step_s = 0.0
        self.record = Record(_LONG_MEMORY, _PRIOR_WEIGHT)
        self._turn = 0

    def forget(self, turn: int) -> None:
        """A request of this turn has drafts of no worth: once in a turn the next ones seem cheaper."""
        if turn != self._turn:
            self._turn = turn
            self.step_s *= _FORGET


class DraftModel:
    """A drafter that asks another model; where that is closed, or fails, there are no drafts any more.

    Args:
        engine: the other model's.
        generation: whose tokens it guesses.
        context: positions of the other model.
        experience: with that model, of all requests.
    """

    def __init__(self, engine: Engine, generation: Sequence, context: int, experience: Experience) -> None:
        self._engine, self._context, self._experience = engine, context, experience
        self._ids = generation.token_ids  # they grow
        self._draft = Draft(priority=generation.priority)
        self._owner = os.getpid()  # in a child after fork the other engine may not be touched
        self._given = NO_DRAFTS  # what was drafted last, from token _n_base on
        self._n_base = 0
        self._is_asked = False
        self._n_asked, self._asked_s, self._until_s = 0, 0.0, 0.0
        self._record = Record(_MEMORY, _PRIOR_WEIGHT)
        self._retry, self._retry_at = _RETRY, 0
        self._turn = 0

    @property
    def step_s(self) -> float:
        """See Drafter."""
        return self._experience.step_s or 1e-9  # a first guess is worth its price, whatever that is

    def follow(self, turn: int) -> None:
        """See Drafter."""
        self._turn = turn
        now = self._ids[self._n_base : self._n_base + len(self._given)]
        for i, (token, draft) in enumerate(zip(now, self._given, strict=False)):
            self._record.note(i, token == draft)
            self._experience.record.note(i, token == draft)
            if token != draft:
                break
        self._given = NO_DRAFTS

    def chances(self, n_most: int) -> list[float]:
        """See Drafter."""
        made: list[float] = []
        n_most = min(n_most, self._context - len(self._ids))
        if n_most <= 0 or self._is_out():
            return made
        if self._retry_at and len(self._ids) >= self._retry_at:
            return [1.0]
        chance, usual, own = 1.0, _PRIOR, _PRIOR
        for i in range(n_most):
            usual = self._experience.record.share(i, usual)  # where nothing is known like the one before
            own = self._record.share(i, usual)
            chance *= own
            if chance < _LEAST:
                break
            made.append(chance)
        return made

    def _is_out(self) -> bool:
        """Whether it cannot be asked now, or any more."""
        if self._is_asked and self._draft.wait_for(0.0):
            self._is_asked = False  # too late for its step
        return self._is_asked or self._draft.is_finished

    def _n_behind(self) -> int:
        return len(self._ids) - n_alike(self._draft.token_ids, self._ids)

    def ask(self, n_drafts: int) -> None:
        """See Drafter; where it is behind, it reads first."""
        if self._is_out() or len(self._ids) >= self._context:
            return
        if not n_drafts:
            self._experience.forget(self._turn)
            self._retry_at = self._retry_at or len(self._ids) + self._retry
        elif (n_behind := self._n_behind()) > _CLOSE:
            self._send(self._ids[: len(self._ids) - max(0, n_behind - _PIECE)], 0)
        else:
            is_retry = self._retry_at and len(self._ids) >= self._retry_at
            self._retry, self._retry_at = (2 * self._retry if is_retry else _RETRY), 0
            self._send(self._ids, n_drafts)

    def _send(self, ids: array[int], n_drafts: int) -> None:
        self._n_asked, self._n_base, self._asked_s = n_drafts, len(ids), time.perf_counter()
        patience_s = max(_PATIENCE * self._experience.step_s * n_drafts, _LEAST_PATIENCE_S)
        self._until_s = self._asked_s + patience_s
        with contextlib.suppress(RuntimeError):  # closed: the draft has ended
            self._draft.ask(self._engine, ids, n_drafts)
            self._is_asked = True

    def answer(self, deadline_s: float) -> array[int]:
        """See Drafter. Its own patience counts from `ask` on: several are waited for as long as one."""
        known = self._experience
        if not self._is_asked:
            return NO_DRAFTS
        left_s = min(self._until_s, deadline_s) - time.perf_counter()
        has_come = self._draft.wait_for(max(0.0, left_s))
        self._is_asked = not has_come
        seconds = (time.perf_counter() - self._asked_s) / max(1, self._n_asked)
        if self._n_asked and (has_come or seconds > known.step_s):  # a deadline may be sooner than the drafts
            known.step_s += (_BLEND if known.step_s else 1.0) * (seconds - known.step_s)
        if not has_come or self._draft.is_finished or not self._n_asked:
            return NO_DRAFTS
        self._given = self._draft.token_ids[self._n_base :]
        return self._given

    def end(self) -> None:
        """See Drafter; gives back what the other model holds for it."""
        if self._owner == os.getpid() and len(self._draft.token_ids) and not self._draft.is_finished:
            self._engine.cancel(self._draft)
            with contextlib.suppress(RuntimeError):  # closed: all has been given back
                self._engine.submit([self._draft])  # from its rest, to be ended


def check_vocabulary(where: str, own: tuple[int, Tokenizer], other: tuple[int, Tokenizer]) -> None:
    """Raises ValueError where two models, each a vocab_size and a tokenizer, differ in an id."""
    (n, mine), (n_other, theirs) = own, other
    if n != n_other or mine.vocab_size != theirs.vocab_size:
        raise ValueError(
            f"{where}: speculate is a model of {n_other} ids and {theirs.vocab_size} token texts, wanted "
            f"{n} and {mine.vocab_size} as in this one"
        )
    for id in range(mine.vocab_size):
        if (text := theirs.token_bytes(id)) != (wanted := mine.token_bytes(id)):
            raise ValueError(
                f"{where}: speculate is a model where token {id} is {text!r}, wanted {wanted!r}, as here"
            )
