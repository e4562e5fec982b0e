"""What a caller holds of a generation that runs: a handle to wait for, or a stream of its chunks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import TracebackType

from lanner.result import Chunk, GenerationResult
from lanner.sequence import Generation


class Handle:
    """A generation that was submitted. It goes on whether somebody waits or not."""

    def __init__(self, generation: Generation, cancel: Callable[[Generation], None]) -> None:
        self._generation = generation
        self._cancel = cancel  # a method of the model, which therefore lives as long as this

    def done(self) -> bool:
        """Whether it has ended."""
        return self._generation.is_finished

    def cancel(self) -> None:
        """Ends it soon; `result` then gives what was generated, with finish_reason "cancelled"."""
        self._cancel(self._generation)

    def result(self, timeout: float | None = None) -> GenerationResult:
        """Waits for the end, at most `timeout` seconds; Ctrl-C ends the wait and not the generation.

        Raises TimeoutError, ValueError for a negative timeout, or what went wrong in the generation.
        """
        if timeout is not None and not 0 <= timeout <= threading.TIMEOUT_MAX:
            raise ValueError(f"result: timeout is {timeout!r}, wanted seconds of at least 0, or None")
        if not self._generation.wait(timeout):
            raise TimeoutError(f"result: the generation has not ended within {timeout} s")
        return finished_result(self._generation)


class TokenStream:
    """An iterator of chunks. Closing it, and dropping it, ends the generation."""

    def __init__(
        self, generation: Generation, chunks: SimpleQueue[Chunk | None], cancel: Callable[[Generation], None]
    ) -> None:
        self._generation = generation
        self._chunks = chunks
        self._cancel = cancel
        self._is_over = False

    def __iter__(self) -> TokenStream:
        return self

    def __next__(self) -> Chunk:
        """Waits for the next chunk; Ctrl-C ends the generation. Raises what went wrong in it."""
        if self._is_over:
            raise StopIteration
        try:
            chunk = self._chunks.get()
        except BaseException:
            self.close()
            raise
        self._is_over = chunk is None or chunk.finish_reason is not None
        if chunk is None:
            finished_result(self._generation)
            raise StopIteration
        return chunk

    def close(self) -> None:
        """Ends the generation if it still runs; there are no more chunks."""
        self._is_over = True
        if not self._generation.is_finished:
            self._cancel(self._generation)

    def __enter__(self) -> TokenStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def finished_result(generation: Generation) -> GenerationResult:
    """The result of a generation that has ended. Raises what went wrong in it."""
    if generation.error is not None:
        raise generation.error
    assert generation.result is not None  # the other way to end
    return generation.result
