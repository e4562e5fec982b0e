"""An engine in a process of its own, driven by lines of JSON: one request on stdin, one reply on stdout.

    {"op": "prefill", "ids": [...], "variant": ""}  ->  {"value": [0.31, [42]], "cpu_s": 0.61}

`op` is a name of `OPERATIONS`, the rest are its arguments. `cpu_s` is the processor time of all threads of
the process so far; what an idle engine burns while the other one computes is seen in it. A failure gives
{"error": "..."}. The process ends with its stdin.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from _engines import ENGINES, Engine, machine_limits, model_costs

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
    "limits": machine_limits,
    "costs": model_costs,
    "ping": lambda: None,
}


def main() -> None:
    """Serve until stdin ends."""
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
