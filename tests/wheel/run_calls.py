"""Replays recorded calls of lanner.ops on one thread and on two. Imports NumPy and lanner alone.

python run_calls.py CALLS.npz prints the instruction set and, per operation, its largest error as a share of
the bound. Fails where a result is off, where threads change a bit, and where a name of `lanner.ops.__all__`
is never used.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

import lanner
from lanner import ops


class Watched:
    """lanner.ops, and which of its names were used."""

    def __init__(self) -> None:
        self.used: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.used.add(name)
        return getattr(ops, name)


class Replay:
    def __init__(self, path: str) -> None:
        with np.load(path) as data:
            self.calls = json.loads(str(data["calls"]))
            self.arrays = {name: data[name] for name in data.files}
        self.ops = Watched()
        self.worst: dict[str, float] = {}

    def decode(self, value: Any) -> Any:
        if isinstance(value, dict) and "array" in value:
            return self.arrays[f"a{value['array']}"]
        if isinstance(value, dict) and "pack" in value:
            return self.ops.pack(*map(self.decode, value["pack"]))
        return value

    def run(self, n_threads: int) -> list[list[np.ndarray]]:
        self.ops.set_threads(n_threads)
        if self.ops.get_threads() != n_threads:
            sys.exit(f"get_threads() is {self.ops.get_threads()} after set_threads({n_threads})")
        return [self.one(i, *call) for i, call in enumerate(self.calls)]

    def one(self, i: int, op: str, args: Any, options: Any, results: Any) -> list[np.ndarray]:
        options = {name: self.decode(value) for name, value in options.items()}
        given = getattr(self.ops, op)(*map(self.decode, args), **options)
        if op == "pack":
            if not isinstance(given, self.ops.Packed):
                sys.exit(f"call {i}, pack: the result is a {type(given).__name__}")
            given = given.unpack()
        given = list(given) if isinstance(given, tuple) else [given]
        if len(given) != len(results):
            sys.exit(f"call {i}, {op}: {len(given)} results, wanted {len(results)}")
        for got, (wanted, bound) in zip(given, results, strict=True):
            self.check(f"call {i}, {op}", op, got, self.decode(wanted), self.decode(bound))
        return given

    def check(self, what: str, op: str, got: np.ndarray, wanted: np.ndarray, bound: Any) -> None:
        if got.shape != wanted.shape:
            sys.exit(f"{what}: shape {got.shape}, wanted {wanted.shape}")
        if isinstance(bound, float):  # exact: the bits, but any NaN is as good as another
            same = (got == wanted) & (np.signbit(got) == np.signbit(wanted))
            if got.dtype != wanted.dtype or not (same | (np.isnan(got) & np.isnan(wanted))).all():
                sys.exit(f"{what}: the result is not exact")
            share = 0.0
        else:
            error = np.abs(got.astype(np.float64) - wanted)
            if not (error <= bound).all():
                sys.exit(f"{what}: off by {np.nanmax(error / np.maximum(bound, 1e-300)):.3g} of the bound")
            share = float(np.max(error / np.maximum(bound, 1e-300), initial=0.0))
        self.worst[op] = max(self.worst.get(op, 0.0), share)


def main() -> None:
    replay = Replay(sys.argv[1])
    alone, shared = replay.run(1), replay.run(2)
    for i, (a, b) in enumerate(zip(alone, shared, strict=True)):
        if any(x.tobytes() != y.tobytes() for x, y in zip(a, b, strict=True)):
            sys.exit(f"call {i}, {replay.calls[i][0]}: two threads give other bits than one")
    if missing := sorted(set(ops.__all__) - replay.ops.used):
        sys.exit(f"never called: {', '.join(missing)}")
    print(json.dumps({"isa": lanner.isa(), "calls": len(replay.calls), "worst": replay.worst}))


main()
