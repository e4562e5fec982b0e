"""Which sequences advance in the next step, and by how many tokens."""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from lanner._blocks import BlockManager
from lanner._core import PAGE_POSITIONS, OutOfMemoryBudget
from lanner.sequence import Sequence
from lanner.step_times import StepTimes


class StepChunk(NamedTuple):
    """What a step computes of one sequence: n_tokens from position `start`, logits of the last n_outputs."""

    sequence: Sequence
    start: int
    n_tokens: int
    n_outputs: int


class Scheduler:
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
        self._max_tokens = max_tokens
        self._max_outputs = max_outputs
        self._max_seqs = min(max_seqs, max_tokens, max_outputs)
        self.pages = BlockManager(list(page_groups))
        self._times = StepTimes(max_tokens)
        self._waiting: list[Sequence] = []  # both in the order in which they are served
        self._running: list[Sequence] = []
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
        """Lets a sequence wait for its turn."""
        self._n_arrived += 1
        sequence.rank = (-sequence.priority, self._n_arrived)
        insort(self._waiting, sequence, key=_rank)

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
        insort(self._running, child, key=_rank)

    # --- a step ---------------------------------------------------------------------------------------------
    def schedule(self) -> list[StepChunk]:
        """The next step: at least one chunk, as long as there is a sequence that can go on.

        A sequence that is too long for the whole cache fails with OutOfMemoryBudget.
        """
        while True:
            self._admit()
            chunks = self._chunks() or self._chunks(is_limited=False)  # no decode may have found a page
            if chunks or not self._running:
                return chunks
            stuck = next((each for each in self._running if _n_left(each)), None)
            if stuck is None:  # all wait for others of their requests, which have no place
                self._preempt(self._running[-1])
                continue
            stuck.fail(self._too_small(stuck))  # all pages are free or its own
            for sequence in self:
                if sequence.is_finished:
                    self.remove(sequence)

    def commit(self, chunks: list[StepChunk], seconds: float) -> None:
        """A step was computed: what it cached is found by others from now on."""
        n_decodes = n_prompt_tokens = 0
        for sequence, _, n_tokens, _ in chunks:
            if _is_decode(sequence):
                n_decodes += 1
            else:
                n_prompt_tokens += n_tokens
            sequence.n_cached += n_tokens
            if sequence.shares_pages and sequence.table is not None:
                self.pages.commit(sequence.table, sequence.token_ids, sequence.n_cached)
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
            insort(self._running, sequence, key=_rank)
            self._follow(sequence)

    def _chunks(self, is_limited: bool = True) -> list[StepChunk]:
        n_decodes = sum(map(_is_decode, self._running))
        n_tokens, n_outputs = self._max_tokens - n_decodes, self._max_outputs - n_decodes
        if n_decodes and is_limited:
            n_tokens = min(n_tokens, self._times.prompt_tokens(n_decodes))
        chunks: list[StepChunk] = []
        index = 0
        # Who gives way meanwhile is served later, or is idle: then the next one may have to wait for a step.
        while index < len(self._running) and len(chunks) < self._max_seqs:
            sequence = self._running[index]
            index += 1
            is_decode = _is_decode(sequence)
            if is_decode:
                chunk = self._chunk(sequence, 1, 1)
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

    def _chunk(self, sequence: Sequence, n_tokens: int, n_outputs: int) -> StepChunk | None:
        """As much of a sequence as fits into n_tokens and n_outputs, if there are pages for it."""
        start = sequence.n_cached
        count = min(_n_left(sequence), n_tokens)
        wanted = max(0, start + count - max(start, sequence.wanted_from))
        if wanted > n_outputs:  # their tokens wait for a step with rows to spare
            count, wanted = count - (wanted - n_outputs), n_outputs
        if count <= 0 or not self._reserve(sequence, start + count):
            return None
        return StepChunk(sequence, start, count, wanted)

    # --- pages ----------------------------------------------------------------------------------------------
    def _begins(self, sequence: Sequence) -> bool:
        """Gives a table to a sequence that has none, with what the cache has of its tokens.

        False where those that are served before it leave too few pages for all of them: it would have to give
        up again what it took.
        """
        table, n_cached = self.pages.table(), 0
        if sequence.shares_pages:
            n_most = min(len(sequence.token_ids) - 1, sequence.wanted_from)
            n_cached = self.pages.match(table, sequence.token_ids, n_most)
        while not self.pages.has_room(table, len(sequence.token_ids)):
            if not self._preempt_one(sequence):
                if all(each.table is None for each in self._running):
                    break  # alone: it fails where its pages do not suffice, if it gets so far
                self.pages.release(table)
                return False
        sequence.table, sequence.n_cached = table, n_cached
        _note_start(sequence)
        return True

    def _follow(self, sequence: Sequence) -> None:
        """Shares the pages of a leader that has them still; the last token alone is computed again."""
        leader, n_positions = sequence.leader, len(sequence.token_ids) - 1
        sequence.leader = None  # should it have to begin again, its tokens will be others
        if leader is None or leader.table is None:
            return
        sequence.table = self.pages.fork(leader.table, n_positions)
        if sequence.table is not None:
            sequence.n_cached = n_positions
            _note_start(sequence)

    def _reserve(self, sequence: Sequence, n_positions: int) -> bool:
        """Room for n_positions, if need be in the place of others."""
        assert sequence.table is not None  # it has begun
        while not self.pages.reserve(sequence.table, sequence.n_cached, n_positions):
            if not self._preempt_one(sequence):
                return False
        return True

    def _preempt_one(self, sequence: Sequence) -> bool:
        """Takes the pages of the last that is served after `sequence`, else of one that waits for others."""
        behind = self._running[self._running.index(sequence) + 1 :]
        idle = [each for each in self._running if each is not sequence and each.is_idle]
        last = next((each for each in [*reversed(behind), *idle] if each.table is not None), None)
        if last is not None:
            self._preempt(last)
        return last is not None

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._release(sequence)
        insort(self._waiting, sequence, key=_rank)

    def _release(self, sequence: Sequence) -> None:
        if sequence.table is not None:
            self.pages.release(sequence.table)
        sequence.table, sequence.n_cached = None, 0

    def _too_small(self, sequence: Sequence) -> OutOfMemoryBudget:
        n_pages = self.pages.n_pages(0)
        return OutOfMemoryBudget(
            f"the cache has {self.pages.n_free(0)} free pages of {PAGE_POSITIONS} positions, all {n_pages} "
            f"are too few for a sequence of {len(sequence.token_ids)} tokens"
        )


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.rank


def _n_left(sequence: Sequence) -> int:
    return 0 if sequence.is_idle else len(sequence.token_ids) - sequence.n_cached


def _is_decode(sequence: Sequence) -> bool:
    return sequence.n_cached > 0 and _n_left(sequence) == 1


def _note_start(sequence: Sequence) -> None:
    if not sequence.started_s:  # what it finds of its own after it gave way does not count
        sequence.started_s = time.perf_counter()
        sequence.n_found = sequence.n_cached


def _is_ready(sequence: Sequence) -> bool:
    """Whether what it waits for has come: one that shares a prompt begins once the prompt is computed."""
    leader = sequence.leader
    if sequence.is_idle:
        return False
    return leader is None or leader.is_finished or leader.n_cached >= len(sequence.token_ids)
