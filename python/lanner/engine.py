"""The engine: one thread per model that steps its program for all callers."""

from __future__ import annotations

import heapq
import os
import threading
import time
import weakref
from collections.abc import Iterable
from queue import SimpleQueue
from typing import TYPE_CHECKING

from lanner._blocks import StepViews, fill_step
from lanner.scheduler import Scheduler, StepChunk
from lanner.sequence import Sequence

if TYPE_CHECKING:
    from lanner.decoder import Decoder
    from lanner.result import FinishReason
    from lanner.seq2seq import Seq2Seq


class Engine:
    """Runs sequences through a decoder in a thread of its own, which starts with the first of them.

    Every method may be called from any thread. The engine's own is a daemon, so that it never keeps a process
    alive; whoever made the engine closes it before the interpreter ends. In a child after fork, where that
    thread does not exist, unfinished sequences fail and the next one starts another thread.
    """

    def __init__(self, decoder: Decoder | Seq2Seq) -> None:
        self.decoder = decoder
        self._views = StepViews(decoder.step)
        self._is_closed = False
        self._reset()
        _engines.add(self)

    def _reset(self) -> None:
        step = self.decoder.step
        self._scheduler = Scheduler(
            max_tokens=step.max_tokens,
            max_outputs=step.max_outputs,
            max_seqs=step.max_seqs,
            page_groups=self.decoder.page_groups,
        )
        self._inbox: SimpleQueue[Sequence | None] = SimpleQueue()
        # By identity, from `submit` on; who waits for one keeps it alive.
        self._submitted: weakref.WeakValueDictionary[int, Sequence] = weakref.WeakValueDictionary()
        self._deadlines: list[tuple[float, int]] = []  # a heap: when, and whose identity
        # Reentrant: a stream that the garbage collector finds while its thread is in here cancels itself.
        self._lock = threading.RLock()
        self._stepping: list[StepChunk] = []  # what runs now, and what a cancel may stop; under the lock
        self._has_cancelled = False
        self._thread: threading.Thread | None = None

    # --- from any thread ------------------------------------------------------------------------------------
    def submit(self, sequences: Iterable[Sequence]) -> None:
        """Lets sequences wait for their turn, in order. Raises RuntimeError once the engine is closed."""
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the model is closed")
            arrived = list(sequences)
            if self._thread is None and arrived:
                self._start_thread()  # first: what a failed start left behind would run with a later request
            for sequence in arrived:
                sequence.served_by = self._thread
                self._submitted[id(sequence)] = sequence
                self._inbox.put(sequence)

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._loop, name="lanner-engine", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the system gives no more threads; a later request may be luckier
            self._thread = None
            raise

    def cancel(self, sequence: Sequence) -> None:
        """Ends a sequence: between two layers if it runs alone, else before the next step. Does not wait."""
        sequence.is_cancelled = True
        with self._lock:
            self._has_cancelled = True
            if self._stepping and self._nobody_wants_the_step():
                self.decoder.cancel()

    def close(self) -> None:
        """Cancels everything and waits for the thread to end. Closing again does nothing."""
        with self._lock:
            self._is_closed = True
            if self._stepping:
                self.decoder.cancel()
            self._inbox.put(None)
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    # --- the engine thread ----------------------------------------------------------------------------------
    def _loop(self) -> None:
        try:
            while self._receive():
                chunks: list[StepChunk] = []
                try:
                    chunks = self._scheduler.schedule(self._next_deadline_s)
                    if chunks:
                        self._step(chunks)
                except Exception as error:
                    for sequence in [chunk.sequence for chunk in chunks] or self._scheduler:
                        self._fail(sequence, error)
                    self._remove_finished()
            for sequence in self._all():
                if not sequence.is_finished:
                    self._end(sequence, "cancelled")
        except BaseException as error:  # nobody may wait for a thread that is gone
            self._is_closed = True
            for sequence in self._all():
                self._fail(sequence, error)
            raise

    def _all(self) -> list[Sequence]:
        return [*self._scheduler, *self._submitted.values()]

    def _receive(self) -> bool:
        """Takes in what was submitted, waits while there is nothing to do; False once it is closed."""
        while not self._is_closed:
            if not len(self._scheduler):
                self._take(self._inbox.get())
            self._receive_all()
            self._end_those_in_time()
            if len(self._scheduler):
                return not self._is_closed
        return False

    def _receive_all(self) -> None:
        while not self._inbox.empty():
            self._take(self._inbox.get())

    def _take(self, sequence: Sequence | None) -> None:
        if sequence is None:
            return
        self._scheduler.add(sequence)
        if sequence.is_cancelled:
            self._has_cancelled = True
        if sequence.deadline_s < _NEVER:
            heapq.heappush(self._deadlines, (sequence.deadline_s, id(sequence)))

    def _end_those_in_time(self) -> None:
        """Ends what was cancelled, and what has reached its deadline."""
        has_ended = self._has_cancelled
        if self._has_cancelled:
            self._has_cancelled = False
            for sequence in self._scheduler:
                if sequence.is_cancelled:
                    self._end(sequence, "cancelled")
        now = time.perf_counter()
        while self._deadlines and self._deadlines[0][0] <= now:
            due = self._submitted.get(heapq.heappop(self._deadlines)[1])
            # An identity may have been given anew.
            if due is not None and due.deadline_s <= now:
                self._end(due, "deadline")
                has_ended = True
        if has_ended:
            self._remove_finished()

    @property
    def _next_deadline_s(self) -> float:
        """Not after the nearest deadline of those that have not ended."""
        return self._deadlines[0][0] if self._deadlines else _NEVER

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        try:
            sequence.end(reason)
        except Exception as error:
            self._fail(sequence, error)

    def _step(self, chunks: list[StepChunk]) -> None:
        fill_step(self._views, chunks)
        self.decoder.copy_pages(self._scheduler.pages.take_copies())
        self.decoder.prepare(chunks)
        started_s = time.perf_counter()
        if self._run(chunks):
            self._scheduler.commit(chunks, time.perf_counter() - started_s)
            self._deliver(chunks)

    def _run(self, chunks: list[StepChunk]) -> bool:
        """Runs the step; False if it was stopped, which only sequences in `_stepping` may ask for."""
        deadline_s = max(chunk.sequence.deadline_s for chunk in chunks)
        with self._lock:
            self.decoder.clear_cancel()
            self._stepping = chunks
            if self._is_closed or self._nobody_wants_the_step():  # known before the step could be seen
                self.decoder.cancel()
        try:
            return self.decoder.run(deadline_s)
        finally:
            with self._lock:
                self._stepping = []

    def _nobody_wants_the_step(self) -> bool:
        return all(chunk.sequence.is_cancelled for chunk in self._stepping)

    def _deliver(self, chunks: list[StepChunk]) -> None:
        """Gives the rows of a step to their sequences, and lets go of those that have ended."""
        row = 0
        requests = {}
        has_ended = False
        for sequence, _, _, n_outputs in chunks:
            if not n_outputs:
                continue
            try:
                sequence.take(self.decoder, row, n_outputs)
            except BaseException as error:  # its own, or its processor's: the others of the step go on
                self._fail(sequence, error)
            row += n_outputs
            has_ended |= sequence.is_finished
            if sequence.request is not None:
                requests[id(sequence.request)] = sequence.request
        for request in requests.values():
            try:
                request.after_step(self._scheduler)
            except BaseException as error:
                request.fail(error)
            has_ended = True
        if has_ended:
            self._remove_finished(self._scheduler.running)

    def _fail(self, sequence: Sequence, error: BaseException) -> None:
        (sequence if sequence.request is None else sequence.request).fail(error)

    def _remove_finished(self, among: Iterable[Sequence] | None = None) -> None:
        for sequence in self._scheduler if among is None else among:
            if sequence.is_finished:
                self._scheduler.remove(sequence)

    # --- fork -----------------------------------------------------------------------------------------------
    def restart_in_child(self) -> None:
        """Starts anew in a process that has only the thread that called fork."""
        lost = self._all()
        self._reset()
        for sequence in lost:
            error = RuntimeError("the request was made before fork and goes on in the parent process")
            self._fail(sequence, error)


_NEVER = float("inf")

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _restart_all_in_child() -> None:
    for engine in list(_engines):
        engine.restart_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart_all_in_child)
