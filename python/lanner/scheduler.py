"""Which sequences advance in the next step, and by how many tokens."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from lanner._blocks import PageManager
from lanner._core import PAGE_POSITIONS, OutOfMemoryBudget
from lanner.sequence import Sequence


class StepChunk(NamedTuple):
    """What a step computes of one sequence: n_tokens from position `start`, logits of the last n_outputs."""

    sequence: Sequence
    start: int
    n_tokens: int
    n_outputs: int


class Scheduler:
    """Serves sequences in the order in which they come, up to `max_seqs` of them at a time.

    A prompt longer than what is left of a step goes on in the next. Pages of the cache are taken as a
    sequence grows and given back when it leaves. The caller is one thread.
    """

    def __init__(self, *, max_tokens: int, max_outputs: int, max_seqs: int, n_pages: int) -> None:
        self._max_tokens = max_tokens
        self._max_outputs = max_outputs
        self._max_seqs = max_seqs
        self._pages = PageManager(n_pages)
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def __iter__(self) -> Iterator[Sequence]:
        """All sequences, running ones first, in a list of its own: they may be removed meanwhile."""
        return iter([*self._running, *self._waiting])

    @property
    def n_free_pages(self) -> int:
        """Pages that no sequence uses."""
        return self._pages.n_free

    def add(self, sequence: Sequence) -> None:
        """Lets a sequence wait for its turn."""
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Takes a sequence out, whatever its state, and its pages back."""
        (self._running if sequence in self._running else self._waiting).remove(sequence)
        self._pages.release(sequence.pages)

    def schedule(self) -> list[StepChunk]:
        """The next step: at least one chunk, as long as there is a sequence.

        Raises OutOfMemoryBudget where the cache has no room for any that runs.
        """
        while self._waiting and len(self._running) < self._max_seqs:
            self._waiting[0].started_s = time.perf_counter()
            self._running.append(self._waiting.popleft())
        chunks: list[StepChunk] = []
        n_tokens, n_outputs = self._max_tokens, self._max_outputs
        for sequence in self._running:
            chunk = self._chunk(sequence, n_tokens, n_outputs)
            if chunk is not None:
                chunks.append(chunk)
                n_tokens -= chunk.n_tokens
                n_outputs -= chunk.n_outputs
        if self._running and not chunks:
            wanted = max(len(sequence.token_ids) for sequence in self._running)
            raise OutOfMemoryBudget(
                f"the cache has {self._pages.n_free} free pages of {PAGE_POSITIONS} positions, all "
                f"{self._pages.n_pages} are too few for a sequence of {wanted} tokens"
            )
        return chunks

    def _chunk(self, sequence: Sequence, n_tokens: int, n_outputs: int) -> StepChunk | None:
        """As much of a sequence as fits into n_tokens, n_outputs and the free pages."""
        start, end = sequence.n_cached, len(sequence.token_ids)
        count = min(end - start, n_tokens)
        if sequence.wants_every_row:
            count = wanted = min(count, n_outputs)
        else:
            wanted = int(start + count == end)
            if wanted > n_outputs:  # the last token waits for a step with a row to spare
                count, wanted = count - 1, 0
        if count == 0 or not self._pages.reserve(sequence.pages, start + count):
            return None
        return StepChunk(sequence, start, count, wanted)
