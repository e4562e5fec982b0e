"""An engine in a process of its own, driven by lines of JSON: one request on stdin, one reply on stdout.

    {"op": "prefill", "ids": [...], "variant": ""}  ->  {"value": [0.31, [42]], "cpu_s": 0.61}

`op` is a name of `OPERATIONS`, the rest are its arguments. `cpu_s` is the processor time of all threads of
the process so far; what an idle engine burns while the other one computes is seen in it. A failure gives
{"error": "..."}. The process ends with its stdin.

This file and llama_cpp_engine.py also run where Lanner is not installed, as a script: they import the
standard library, and the one engine that was asked for.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol


class Engine(Protocol):
    """A loaded model. `variant` is one of `variants`: a setting of the engine that is compared on its own.

    All engines do the same work: the ids are given, keys and values are f16, logits are made for the last
    token alone, the next token is the argmax. Seconds are wall-clock time seen from Python, calls included.
    """

    name: str
    version: str
    features: str
    variants: tuple[str, ...]

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, special tokens as the file asks for them."""

    def prefill(self, ids: list[int], variant: str) -> tuple[float, list[int]]:
        """(seconds, [next token]) of a prompt into an empty cache."""

    def decode(self, ids: list[int], n_tokens: int, variant: str) -> tuple[float, list[int]]:
        """(seconds, tokens) of `n_tokens` greedy steps of one token behind a prompt that is not timed.

        A prompt of one id is itself the first step: decoding from an empty context.
        """

    def parallel(self, ids: list[int], n_tokens: int, variant: str) -> tuple[float, list[int]]:
        """(seconds, first tokens) of len(ids) sequences, each n_tokens greedy tokens behind one of the ids.

        Together they are len(ids) * n_tokens tokens.
        """


def _lanner(path: str, n_threads: int, n_positions: int) -> Engine:
    from lanner.bench.lanner_engine import LannerEngine

    return LannerEngine(path, n_threads, n_positions)


def _llama_cpp(path: str, n_threads: int, n_positions: int) -> Engine:
    spec = importlib.util.spec_from_file_location(
        "llama_cpp_engine", Path(__file__).with_name("llama_cpp_engine.py")
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Engine = module.LlamaCppEngine(path, n_threads, n_positions)
    return made


ENGINES: dict[str, Callable[[str, int, int], Engine]] = {"lanner": _lanner, "llama.cpp": _llama_cpp}

_engine: Engine | None = None


def _loaded() -> Engine:
    if _engine is None:
        raise RuntimeError("no model is loaded")
    return _engine


def _load(engine: str, path: str, n_threads: int, n_positions: int) -> dict[str, Any]:
    global _engine
    start = time.perf_counter()
    _engine = ENGINES[engine](path, n_threads, n_positions)
    described = {name: getattr(_engine, name) for name in ("name", "version", "features", "variants")}
    return {"seconds": time.perf_counter() - start, **described}


OPERATIONS: dict[str, Callable[..., Any]] = {
    "load": _load,
    "tokenize": lambda text: _loaded().tokenize(text),
    "prefill": lambda ids, variant: _loaded().prefill(ids, variant),
    "decode": lambda ids, n_tokens, variant: _loaded().decode(ids, n_tokens, variant),
    "parallel": lambda ids, n_tokens, variant: _loaded().parallel(ids, n_tokens, variant),
    "ping": lambda: None,
}


def main() -> None:
    """Serve until stdin ends."""
    # A script's own folder comes first on the path, where names of this package would hide others.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").absolute() != Path(__file__).parent]
    # Libraries may write to descriptor 1; replies go to a copy of it that only this module knows.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {"value": OPERATIONS[request.pop("op")](**request)}
        except Exception as error:  # whatever it was, the other side reports it
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps({**reply, "cpu_s": time.process_time()}) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
