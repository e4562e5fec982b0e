"""Lanner in the place of an engine; see `engine_worker.Engine`."""

from __future__ import annotations

import threading
import time


class LannerEngine:
    """Lanner through its public interface: the engine thread and the detokenizer are part of the time."""

    variants: tuple[str, ...] = ("",)

    def __init__(self, path: str, n_threads: int, n_positions: int) -> None:
        import lanner

        self._model = lanner.load(path, context=n_positions, threads=n_threads)
        self.name = "Lanner"
        self.version = lanner.__version__
        self.features = lanner.isa()

    def tokenize(self, text: str) -> list[int]:
        """See Engine."""
        return list(self._model.tokenizer.encode(text))

    def prefill(self, ids: list[int], variant: str) -> tuple[float, list[int]]:
        """See Engine."""
        start = time.perf_counter()
        result = self._model.generate(ids, max_tokens=1, ignore_eos=True)
        seconds = time.perf_counter() - start
        if result.usage.cached_tokens:
            raise RuntimeError(f"{result.usage.cached_tokens} tokens of the prompt were in the cache already")
        return seconds, list(result.tokens)

    def decode(self, ids: list[int], n_tokens: int, variant: str) -> tuple[float, list[int]]:
        """See Engine."""
        if len(ids) == 1:
            start = time.perf_counter()
            result = self._model.generate(ids, max_tokens=n_tokens, ignore_eos=True)
            return time.perf_counter() - start, list(result.tokens)
        # The first token comes out of the prompt's own step; decode_s counts from there.
        result = self._model.generate(ids, max_tokens=n_tokens + 1, ignore_eos=True)
        return result.timings.decode_s, list(result.tokens[1:])

    def parallel(self, ids: list[int], n_tokens: int, variant: str) -> tuple[float, list[int]]:
        """A thread for each sequence, as callers are who do not know of each other."""
        results: dict[int, list[int]] = {}
        ready = threading.Barrier(len(ids) + 1)

        def call(index: int) -> None:
            ready.wait()
            result = self._model.generate([ids[index]], max_tokens=n_tokens, ignore_eos=True)
            results[index] = result.tokens

        threads = [threading.Thread(target=call, args=(index,)) for index in range(len(ids))]
        for thread in threads:
            thread.start()
        ready.wait()
        start = time.perf_counter()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - start
        if {len(tokens) for tokens in results.values()} != {n_tokens}:
            raise RuntimeError("a sequence ended early")
        return seconds, [results[index][0] for index in range(len(ids))]
