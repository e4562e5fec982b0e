"""Which sequences have pages of the cache, and which of them give way to others."""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Iterable

from lanner._blocks import BlockManager, BlockTable
from lanner._core import PAGE_POSITIONS, OutOfMemoryBudget
from lanner.sequence import NO_DRAFTS, Sequence


class Residents:
    """Part of `Scheduler`: the sequences that it has, and their pages.

    Args:
        page_groups: (n_pages, n_kept, window) of every group of layers, as BlockManager takes them.
    """

    def __init__(self, page_groups: Iterable[tuple[int, int, int]]) -> None:
        groups = list(page_groups)
        self._n_groups = len(groups)
        self.pages = BlockManager(groups)
        self._waiting: list[Sequence] = []  # both in the order in which they are served
        self._running: list[Sequence] = []
        self._resting: list[Sequence] = []  # the one that has rested longest first

    def rest(self, sequence: Sequence) -> None:
        """Takes a sequence out of the steps until it is added again; others may take its pages."""
        self._running.remove(sequence)
        self._resting.append(sequence)

    def _enter(self, sequence: Sequence) -> None:
        """Lets others find what is cached of a sequence."""
        if sequence.shares_pages and sequence.table is not None:
            self.pages.commit(sequence.table, sequence.token_ids, sequence.n_cached)

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
        """Takes the pages of one that rests, of the last served after `sequence`, or of an idle one."""
        resting = next((each for each in self._resting if each.table is not None), None)
        if resting is not None:
            self._give_up(resting, resting.table)
            return True
        behind = self._running[self._running.index(sequence) + 1 :]
        idle = [each for each in self._running if each is not sequence and each.is_idle]
        last = next((each for each in [*reversed(behind), *idle] if each.table is not None), None)
        if last is not None:
            self._preempt(last)
        return last is not None

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._release(sequence)
        insort(self._waiting, sequence, key=rank_of)

    def _release(self, sequence: Sequence) -> None:
        if sequence.table is not None:
            self._enter(sequence)  # drafts that became tokens
            self.pages.release(sequence.table)
        sequence.table, sequence.n_cached, sequence.drafts = None, 0, NO_DRAFTS

    def _give_up(self, sequence: Sequence, table: BlockTable | None) -> None:
        """Releases the pages of one that rested: its tokens may no longer be those that are cached."""
        if table is not None:
            self.pages.release(table)
        sequence.table, sequence.n_cached = None, 0

    def _rewind(self, sequence: Sequence) -> None:
        """Keeps the pages of tokens that are still the same; the last one is computed again at least."""
        n_same, table = min(sequence.n_same, len(sequence.token_ids) - 1), sequence.table
        if table is None or sequence.n_cached <= n_same:
            return
        kept = self.pages.fork(table, n_same)
        self._give_up(sequence, table)
        if kept is not None:
            sequence.table, sequence.n_cached = kept, n_same

    def _too_small(self, sequence: Sequence) -> OutOfMemoryBudget:
        n_pages = self.pages.n_pages(0)
        return OutOfMemoryBudget(
            f"the cache has {self.pages.n_free(0)} free pages of {PAGE_POSITIONS} positions, all {n_pages} "
            f"are too few for a sequence of {len(sequence.token_ids)} tokens"
        )


def rank_of(sequence: Sequence) -> tuple[int, int]:
    """Sorts sequences by when they are served."""
    return sequence.rank


def n_left(sequence: Sequence) -> int:
    """Tokens that are to be computed, as far as they are known."""
    return 0 if sequence.is_idle else len(sequence.token_ids) - sequence.n_cached


def _note_start(sequence: Sequence) -> None:
    if not sequence.started_s:  # what it finds of its own after it gave way does not count
        sequence.started_s = time.perf_counter()
        sequence.n_found = sequence.n_cached
