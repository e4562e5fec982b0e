"""Which sequences advance in the next step, and by how many tokens."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from lanner.drafts import Plan
from lanner.residents import Residents, n_left, rank_of
from lanner.sequence import NO_DRAFTS, Sequence
from lanner.step_times import StepTimes


class StepChunk(NamedTuple):
    """What a step computes of one sequence: n_tokens from position `start`, logits of the last n_outputs."""

    sequence: Sequence
    start: int
    n_tokens: int
    n_outputs: int


class Scheduler(Residents):
    """Continuous batching: every step has the next token of all that run, and of prompts what fits beside.

    Sequences are served by priority and then in the order in which they came, up to `max_seqs` at a time.
    A prompt that is longer than what is left of a step goes on in the next; beside running decodes it gets so
    many tokens that a step takes at most `step_times.MOST` decode steps. Pages of the cache are taken as a
    sequence grows. Where none are left, the sequence that is served last gives up its own and waits; later it
    computes again what the cache no longer has, with the same bits. The caller is one thread.

    Args:
        max_tokens, max_outputs, max_seqs: of the largest step.
        page_groups: (n_pages, n_kept, window) of every group of layers, as BlockManager takes them.
    """

    def __init__(
        self,
        *,
        max_tokens: int,
        max_outputs: int,
        max_seqs: int,
        page_groups: Iterable[tuple[int, int, int]],
    ) -> None:
        super().__init__(page_groups)
        self._max_tokens = max_tokens
        self._max_outputs = max_outputs
        self._max_seqs = min(max_seqs, max_tokens, max_outputs)
        self._times = StepTimes(max_tokens)
        self._plan = Plan()
        self._n_arrived = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def __iter__(self) -> Iterator[Sequence]:
        """All sequences, running ones first, in a list of its own: they may be removed meanwhile."""
        return iter([*self._running, *self._waiting])

    @property
    def running(self) -> list[Sequence]:
        """Those that have a place, in a list of its own."""
        return list(self._running)

    def add(self, sequence: Sequence) -> None:
        """Lets a sequence wait for its turn; one that rested keeps what is still right."""
        if sequence.rests:
            if sequence in self._running or sequence in self._waiting:
                return  # called so that its end is noticed
            if sequence in self._resting:
                self._resting.remove(sequence)
                self._rewind(sequence)
        self._n_arrived += 1
        sequence.rank = (-sequence.priority, self._n_arrived)
        insort(self._waiting, sequence, key=rank_of)

    def remove(self, sequence: Sequence) -> None:
        """Takes a sequence out, whatever its state, and its pages back."""
        (self._running if sequence in self._running else self._waiting).remove(sequence)
        self._release(sequence)

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Lets `child` run beside its parent; all that the parent has cached is the child's too."""
        assert parent.table is not None
        child.rank = parent.rank  # beside each other, whatever has arrived since
        child.table = self.pages.fork(parent.table)
        child.n_cached, child.started_s = parent.n_cached, parent.started_s
        insort(self._running, child, key=rank_of)

    # --- a step ---------------------------------------------------------------------------------------------
    def schedule(self, deadline_s: float = math.inf) -> list[StepChunk]:
        """The next step: at least one chunk, as long as there is a sequence that can go on.

        Drafts are not waited for after deadline_s, on the clock of time.perf_counter.
        A sequence that is too long for the whole cache fails with OutOfMemoryBudget.
        """
        for sequence in self._running:
            sequence.drafts = NO_DRAFTS  # of a step that was stopped
        while True:
            self._admit()
            chunks = self._chunks(deadline_s) or self._chunks(
                deadline_s, is_limited=False
            )  # no decode may have found a page
            if chunks or not self._running:
                return chunks
            stuck = next((each for each in self._running if n_left(each)), None)
            if stuck is None:  # all wait for others of their requests, which have no place
                self._preempt(self._running[-1])
                continue
            stuck.fail(self._too_small(stuck))  # all pages are free or its own
            for sequence in self:
                if sequence.is_finished:
                    self.remove(sequence)

    def commit(self, chunks: list[StepChunk], seconds: float) -> None:
        """A step was computed: what it cached is found by others from now on."""
        n_decodes = n_prompt_tokens = n_drafts = 0
        for sequence, _, n_tokens, _ in chunks:
            if _is_decode(sequence):
                n_decodes += 1
                n_drafts += len(sequence.drafts)
            else:
                n_prompt_tokens += n_tokens
            sequence.n_cached += n_tokens - len(sequence.drafts)
            self._enter(sequence)
        if not n_prompt_tokens:
            costs = self._plan.costs
            costs.observe(n_decodes + n_drafts, seconds)
            seconds *= costs.cost(n_decodes) / costs.cost(n_decodes + n_drafts)  # without the drafts
        self._times.observe(n_decodes, n_prompt_tokens, seconds)

    def _admit(self) -> None:
        """Lets waiting sequences run while there is room, in the place of others of a lower priority."""
        index = 0
        while index < len(self._waiting):
            sequence = self._waiting[index]
            if not _is_ready(sequence):
                index += 1
                continue
            if len(self._running) >= self._max_seqs:
                last = self._running[-1]
                if last.priority >= sequence.priority:
                    return
                self._preempt(last)  # it waits behind this one
            del self._waiting[index]
            insort(self._running, sequence, key=rank_of)
            self._follow(sequence)

    def _chunks(self, deadline_s: float, is_limited: bool = True) -> list[StepChunk]:
        n_decodes = sum(map(_is_decode, self._running))
        n_tokens, n_outputs = self._max_tokens - n_decodes, self._max_outputs - n_decodes
        if n_decodes and is_limited:
            self._draft(n_decodes, min(n_tokens, n_outputs), deadline_s)
            n_tokens = min(n_tokens, self._times.prompt_tokens(n_decodes))
        chunks: list[StepChunk] = []
        index = 0
        # Who gives way meanwhile is served later, or is idle: then the next one may have to wait for a step.
        while index < len(self._running) and len(chunks) < self._max_seqs:
            sequence = self._running[index]
            index += 1
            is_decode = _is_decode(sequence)
            if is_decode:
                chunk = self._verification(sequence) or self._chunk(sequence, 1, 1)
            elif sequence.table is not None or self._begins(sequence):
                chunk = self._chunk(sequence, n_tokens, n_outputs)
            else:
                n_tokens = 0  # nor does any that is served after it
                continue
            if chunk is None:
                continue
            chunks.append(chunk)
            if not is_decode:
                n_tokens -= chunk.n_tokens
                n_outputs -= chunk.n_outputs
        return chunks

    def _draft(self, n_decodes: int, n_most: int, deadline_s: float) -> None:
        """Gives drafts to running sequences, unless prompts want the time or sequences the pages."""
        if all(each.drafter is None for each in self._running):
            return
        decodes = [each for each in self._running if _is_decode(each)]
        is_idle = n_decodes == sum(n_left(each) > 0 for each in self._running)
        if is_idle and all(self.pages.n_free(g) > n_decodes for g in range(self._n_groups)):
            self._plan.draft(decodes, n_most, deadline_s)

    def _verification(self, sequence: Sequence) -> StepChunk | None:
        """The next token of a sequence and its drafts, if there are free pages for them."""
        start, n = sequence.n_cached, 1 + len(sequence.drafts)
        if n > 1 and sequence.table is not None and self.pages.reserve(sequence.table, start, start + n):
            return StepChunk(sequence, start, n, n)
        sequence.drafts = NO_DRAFTS
        return None

    def _chunk(self, sequence: Sequence, n_tokens: int, n_outputs: int) -> StepChunk | None:
        """As much of a sequence as fits into n_tokens and n_outputs, if there are pages for it."""
        start = sequence.n_cached
        count = min(n_left(sequence), n_tokens)
        wanted = max(0, start + count - max(start, sequence.wanted_from))
        if wanted > n_outputs:  # their tokens wait for a step with rows to spare
            count, wanted = count - (wanted - n_outputs), n_outputs
        if count <= 0 or not self._reserve(sequence, start + count):
            return None
        return StepChunk(sequence, start, count, wanted)


def _is_decode(sequence: Sequence) -> bool:
    return sequence.n_cached > 0 and n_left(sequence) == 1


def _is_ready(sequence: Sequence) -> bool:
    """Whether what it waits for has come: one that shares a prompt begins once the prompt is computed."""
    leader = sequence.leader
    if sequence.is_idle:
        return False
    return leader is None or leader.is_finished or leader.n_cached >= len(sequence.token_ids)
