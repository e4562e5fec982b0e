"""What a caller holds of a generation that runs: a handle to wait for, or a stream of its chunks."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import asyncio
    from types import TracebackType

    from lanner.generation import Generation
    from lanner.result import Chunk, GenerationResult

Cancel: TypeAlias = "Callable[[Generation], None]"
"""A method of the model, which therefore lives as long as who holds it."""


class Handle:
    """A request that was submitted. It goes on whether somebody waits or not."""

    def __init__(self, generations: Sequence[Generation], cancel: Cancel) -> None:
        self._generations = generations
        self._cancel = cancel

    def done(self) -> bool:
        """Whether it has ended."""
        return all(generation.is_finished for generation in self._generations)

    def cancel(self) -> None:
        """Ends it soon; `result` then gives what was generated, with finish_reason "cancelled"."""
        for generation in self._generations:
            self._cancel(generation)

    def result(self, timeout: float | None = None) -> GenerationResult | list[GenerationResult]:
        """Waits for the end, at most `timeout` seconds; Ctrl-C ends the wait and not the generation.

        Returns:
            The result, or all n where more than one text was asked for.

        Raises TimeoutError, ValueError for a negative timeout, or what went wrong in the generation.
        """
        if timeout is not None and not 0 <= timeout <= threading.TIMEOUT_MAX:
            raise ValueError(f"result: timeout is {timeout!r}, wanted seconds of at least 0, or None")
        end_s = None if timeout is None else time.perf_counter() + timeout
        for generation in self._generations:
            left_s = None if end_s is None else max(0.0, end_s - time.perf_counter())
            if not generation.wait(left_s):
                raise TimeoutError(f"result: the generation has not ended within {timeout} s")
        results = [finished_result(generation) for generation in self._generations]
        return results if len(results) > 1 else results[0]


class TokenStream:
    """An iterator of chunks. Closing it, and dropping it, ends the generation."""

    def __init__(self, generation: Generation, chunks: SimpleQueue[Chunk | None], cancel: Cancel) -> None:
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
        self._generation.check_waiter()
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
        if not sys.is_finalizing():
            self.close()


class LoopQueue:
    """Chunks on their way from the engine thread to an event loop; it knows no stream, so one may go."""

    def __init__(self) -> None:
        import asyncio  # whoever gets here runs it already; others do not pay for it

        self._loop = asyncio.get_running_loop()
        self._chunks: asyncio.Queue[Chunk | None] = asyncio.Queue()

    def put(self, chunk: Chunk | None) -> None:
        """Called by the engine thread with every chunk."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._chunks.put_nowait, chunk)

    async def get(self) -> Chunk | None:
        """Waits for the next chunk."""
        return await self._chunks.get()


class AsyncTokenStream:
    """An asynchronous iterator of chunks for one task. Closing it, dropping it, and cancelling the task that
    waits for it ends the generation."""

    def __init__(self, generation: Generation, chunks: LoopQueue, cancel: Cancel) -> None:
        self._generation = generation
        self._chunks = chunks
        self._cancel = cancel
        self._is_over = False

    def __aiter__(self) -> AsyncTokenStream:
        return self

    async def __anext__(self) -> Chunk:
        """Waits for the next chunk. Raises what went wrong in the generation."""
        if self._is_over:
            raise StopAsyncIteration
        try:
            chunk = await self._chunks.get()
        except BaseException:  # the task was cancelled
            self.close()
            raise
        self._is_over = chunk is None or chunk.finish_reason is not None
        if chunk is None:
            finished_result(self._generation)
            raise StopAsyncIteration
        return chunk

    def close(self) -> None:
        """Ends the generation if it still runs; there are no more chunks."""
        self._is_over = True
        if not self._generation.is_finished:
            self._cancel(self._generation)

    async def aclose(self) -> None:
        """`close`, as asynchronous generators have it."""
        self.close()

    async def __aenter__(self) -> AsyncTokenStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.close()


def finished_result(generation: Generation) -> GenerationResult:
    """The result of a generation that has ended. Raises what went wrong in it."""
    generation.raise_error()
    assert generation.result is not None  # the other way to end
    return generation.result
