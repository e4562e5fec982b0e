"""Sequences on their way through the model, and what becomes of the rows that are computed for them."""

from __future__ import annotations

import math
import threading
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from lanner._core import Cancelled
from lanner.result import FinishReason

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    import numpy.typing as npt

    from lanner._blocks import BlockTable
    from lanner.drafts import Drafter
    from lanner.logit_rules import LogitRules

    Ranked = tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.float32]]

Settings = tuple[float, float, float, float, float]
"""temperature, top_k, top_p, min_p and typical_p of a row."""

GREEDY: Settings = (0.0, 0.0, 1.0, 0.0, 1.0)
"""Of a row whose largest logit is chosen."""


NO_DRAFTS = array("i")
"""Of a sequence whose next step computes known tokens alone."""


class Outputs(Protocol):
    """Rows of the step that has just run; views that the next step overwrites."""

    def sampled(self, n_outputs: int, /) -> list[int]:
        """Ids that were chosen, one for every output."""

    def logits(self, n_outputs: int, /) -> npt.NDArray[np.float32]:
        """(R, vocab_size)."""

    def choose(self, row: int, rules: LogitRules, sampling: Settings, uniform: float, /) -> int:
        """The id that a row gets by rules and (temperature, ...); -1 where no logit is finite."""

    def candidates(self, row: int, rules: LogitRules | None, k: int, /) -> tuple[list[int], list[float]]:
        """The k ids of a row with the largest log p, and these, changed by rules."""

    def logprobs(self, first_row: int, ids: npt.NDArray[np.int32], k: int, /) -> Ranked:
        """Of rows from first_row on, with the token that was chosen there.

        Returns:
            log p of the tokens (n,), the k likeliest ids (n, k), and their log p (n, k).
        """


class Stage(Protocol):
    """Where sequences run: a `lanner.scheduler.Scheduler`."""

    def fork(self, parent: Sequence, child: Sequence, /) -> None:
        """Lets `child` run beside its parent; all that the parent has cached is the child's too."""

    def add(self, sequence: Sequence, /) -> None:
        """Lets a sequence wait for its turn."""

    def remove(self, sequence: Sequence, /) -> None:
        """Takes a sequence out, and its pages back."""

    def rest(self, sequence: Sequence, /) -> None:
        """Takes a sequence out until it is added again, with its pages unless others need them."""


class Request(Protocol):
    """Several sequences that advance together, at the beginning one."""

    @property
    def first(self) -> Sequence:
        """The one that is submitted."""

    def after_step(self, stage: Stage, /) -> None:
        """Called when rows of its sequences have come: it may fork, remove and end sequences of its own."""

    def end(self, reason: FinishReason, /) -> None:
        """Ends all of its sequences before their time, unless they have ended."""

    def fail(self, error: BaseException, /) -> None:
        """Ends all of its sequences with an error."""


class Sequence(ABC):
    """Token ids, cache pages and progress of one sequence.

    The engine thread alone changes it; any thread may set `is_cancelled` and `wait`.

    Attributes:
        token_ids: array of int32, what is to be computed: the prompt, then what was generated.
        table: its pages of the cache, None while it has none.
        n_cached: leading tokens whose K and V are in the cache.
        n_found: leading tokens that the cache had when the sequence began.
        priority: the larger is served sooner.
        deadline_s: when it ends at the latest, on the clock of time.perf_counter; infinite without a limit.
        leader: until this one begins, a sequence with the same tokens that it waits for, to share the pages.
        rank: orders sequences by when they are served; the scheduler's.
        request: the sequences that it advances with, if any.
        drafter: guesses its next tokens, None where nothing does.
        drafts: array of int32, what the next step computes behind `token_ids` and `take` has to verify.
        sampling: temperature, top_k, top_p, min_p and typical_p of its output rows.
        shares_pages: whether equal tokens mean equal keys and values, so that a prefix may be shared.
        rests: whether it may leave the steps and be added again, with other tokens behind the first n_same.
        error: what ended it before its time, to be raised by who waits.
    """

    sampling: Settings = GREEDY
    shares_pages = True
    rests = False
    n_same = 0
    leader: Sequence | None = None
    request: Request | None = None
    drafter: Drafter | None = None
    drafts: array[int] = NO_DRAFTS
    rank: tuple[int, int] = (0, 0)

    def __init__(self, token_ids: Iterable[int], *, priority: int = 0, deadline_s: float = math.inf) -> None:
        self.token_ids = array("i", token_ids)
        self.table: BlockTable | None = None
        self.n_cached = self.n_found = 0
        self.priority = priority
        self.deadline_s = deadline_s
        self.submitted_s = time.perf_counter()
        self.started_s = 0.0
        self.is_cancelled = False
        self.is_finished = False
        self.served_by: threading.Thread | None = None  # the engine's
        self.error: BaseException | None = None
        self._traceback: TracebackType | None = None
        # Held until the end. A bare lock: unlike an Event it has no state that os.fork() can catch half-way.
        self._gate = threading.Lock()
        self._gate.acquire()

    @property
    def wanted_from(self) -> int:
        """The first position whose row of logits is still wanted; the last, unless a class says otherwise."""
        return len(self.token_ids) - 1

    @property
    def is_idle(self) -> bool:
        """Whether it waits for others of its request, with its own row at hand."""
        return False

    @property
    def n_draftable(self) -> int:
        """How many drafts it can use: it wants one token more, at least."""
        return 0

    def uniform(self, position: int) -> float:
        """The random number in [0, 1) that draws the token after `position`; unused where it is greedy."""
        return 0.0

    @abstractmethod
    def take(self, outputs: Outputs, first_row: int, n_rows: int) -> None:
        """Uses the rows that the last step computed for this sequence; `n_cached` counts them already.

        But for rows of drafts, of which those count that turn out to be tokens.
        """

    @abstractmethod
    def end(self, reason: FinishReason) -> None:
        """Ends it before its time, unless it has ended: "cancelled" or "deadline"."""

    def fail(self, error: BaseException) -> None:
        """Ends it with an error, unless it has ended."""
        if not self.is_finished:
            self.error, self._traceback = error, error.__traceback__
            self._open_gate()

    def raise_error(self) -> None:
        """Raises what ended it, if that was an error; the traceback does not grow from call to call."""
        if self.error is not None:
            raise self.error.with_traceback(self._traceback)

    def check_waiter(self) -> None:
        """Raises RuntimeError where the calling thread is the one that would have to go on meanwhile."""
        if not self.is_finished and self.served_by is threading.current_thread():
            raise RuntimeError("a logits_processor cannot wait for the model that waits for it")

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the end, at most `timeout` seconds; False if it has not come. Ctrl-C interrupts."""
        self.check_waiter()
        if not self.is_finished:
            if not self._gate.acquire(timeout=-1 if timeout is None else timeout):
                return False
            self._gate.release()
        return True

    def _open_gate(self) -> None:
        if not self.is_finished:
            self.is_finished = True
            self._gate.release()


class Scoring(Sequence):
    """Gives the rows of its tokens from `first` on to a sink, in pieces, and ends with the last.

    `sink(position, outputs, first_row, n_rows)` is called in the engine thread: rows first_row and on are
    those of `position` and on.
    """

    def __init__(
        self, token_ids: Iterable[int], sink: Callable[[int, Outputs, int, int], None], *, first: int = 0
    ) -> None:
        super().__init__(token_ids)
        self._sink = sink
        self._next = first

    @property
    def wanted_from(self) -> int:
        """See Sequence."""
        return self._next

    def take(self, outputs: Outputs, first_row: int, n_rows: int) -> None:
        """See Sequence."""
        self._sink(self._next, outputs, first_row, n_rows)
        self._next += n_rows
        if self._next == len(self.token_ids):
            self._open_gate()

    def end(self, reason: FinishReason) -> None:
        """See Sequence."""
        self.fail(Cancelled("cancelled before all rows were computed"))
