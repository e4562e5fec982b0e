"""How the cost of a token grows: with the context behind it, and with the size of the model.

A prompt is read once, in pieces that end at powers of two: each piece finds what is before it in the prefix
cache, and some tokens are decoded behind it. So the whole curve takes a single long prompt.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import lanner
from lanner import _core
from lanner._machine import cpu_name
from lanner.bench.machine import Limits, Usage, disturbances
from lanner.bench.model_costs import ModelCosts, model_costs
from lanner.bench.model_rows import rotated
from lanner.bench.model_run import PROMPT

SCHEMA = 1
"""Of the JSON file; another number when a field changes its meaning."""

SHORTEST = 128
DECODE_TOKENS = 24
"""Tokens that are decoded behind each context: less than a page of the cache. The text repeats itself, and a
whole page that the model has guessed would be found by the next prompt."""


@dataclass(frozen=True)
class Point:
    """Samples in seconds with `context` positions: of the whole prompt, and of a token decoded behind it."""

    context: int
    prefill_s: list[float] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)

    @property
    def prefill_s_per_token(self) -> float:
        """Median of the prompt's time, by its tokens."""
        return statistics.median(self.prefill_s) / self.context

    @property
    def decode_s_per_token(self) -> float:
        """Median."""
        return statistics.median(self.decode_s)


@dataclass
class Growth:
    """The curve of a model, and what limits it: bytes read and float32 multiply-adds per second.

    `noise` says what disturbed the measurement.
    """

    model: str
    n_threads: int
    costs: ModelCosts
    limits: dict[str, float]
    points: list[Point]
    noise: list[str] = field(default_factory=list)

    def expected_prefill_s_per_token(self, n_context: int) -> float:
        """What the multiply-adds of a prompt take at the float32 peak, by its tokens."""
        return self.costs.prefill_macs(n_context) / n_context / self.limits["fma"]

    def expected_decode_s_per_token(self, n_context: float) -> float:
        """What it takes to read weights, keys and values of a token behind a context."""
        return self.costs.decode_bytes(n_context) / self.limits["read"]

    def as_json(self) -> dict[str, Any]:
        """Every sample, with what was expected."""
        points = [
            asdict(p)
            | {
                "prefill_s_per_token": p.prefill_s_per_token,
                "decode_s_per_token": p.decode_s_per_token,
                "expected_prefill_s_per_token": self.expected_prefill_s_per_token(p.context),
                "expected_decode_s_per_token": self.expected_decode_s_per_token(p.context),
            }
            for p in self.points
        ]
        return asdict(self) | {"points": points}


def as_json(curves: list[Growth]) -> dict[str, Any]:
    """What `--json` writes: {"schema": 1, "machine": name, "models": [...]}."""
    return {"schema": SCHEMA, "machine": cpu_name(), "models": [curve.as_json() for curve in curves]}


def contexts(longest: int) -> list[int]:
    """128, 256, 512, ... up to `longest`, and the last whole page before it where that is far from them.

    A model has 2048 or 8192 positions, and decoding needs some of them.
    """
    found: list[int] = []
    while (n := SHORTEST << len(found)) <= longest:
        found.append(n)
    last = longest // _core.PAGE_POSITIONS * _core.PAGE_POSITIONS
    return [*found, last] if found and last > 1.5 * found[-1] else found


def measure_growth(
    path: str,
    limits: Limits,
    *,
    longest: int,
    n_rounds: int,
    model_s: float,
    tell: Callable[[str], None] = lambda text: None,
) -> Growth:
    """Measure a file up to `longest` positions, or as many as the model has, with the threads of `limits`.

    There are `n_rounds` rounds, or fewer where the next one would end more than `model_s` seconds after the
    first began. The first context is read once more before, to warm up.

    Raises ValueError where the model has not even the shortest context, and what loading raises.
    """
    costs = model_costs(path)
    reached = contexts(min(longest, costs.context_length - DECODE_TOKENS - 1))
    if not reached:
        raise ValueError(
            f"bench growth: the context is {min(longest, costs.context_length)}, "
            f"wanted at least {SHORTEST + DECODE_TOKENS + 1}"
        )
    limits.probe(("read", "fma"))
    points = [Point(n) for n in reached]
    with lanner.load(path, threads=limits.n_threads, context=reached[-1] + DECODE_TOKENS + 1) as model:
        ids = list(model.tokenizer.encode(PROMPT.read_text(encoding="utf-8")))
        _round(model, rotated(ids, SHORTEST, 1), [Point(SHORTEST)])
        begin, before = time.monotonic(), Usage.now()
        for index in range(n_rounds):
            start = time.monotonic()
            tell(f"up to {reached[-1]} tokens of context, round {index + 1} of {n_rounds}")
            _round(model, rotated(ids, reached[-1], index + 2), points)
            limits.probe(("read", "fma"))
            now = time.monotonic()
            if 2 * now - start - begin > model_s:
                break
        noise = disturbances(Usage.now().since(before))
    best = {str(name): rate for name, rate in limits.best().items()}
    return Growth(str(path), limits.n_threads, costs, best, points, noise)


def _round(model: lanner.Model, ids: list[int], points: list[Point]) -> None:
    """A sample for each point, behind ever longer beginnings of the ids."""
    seconds, done = 0.0, 0
    for point in points:
        result = model.generate(ids[: point.context], max_tokens=DECODE_TOKENS + 1, ignore_eos=True)
        if result.usage.cached_tokens != done:
            raise RuntimeError(
                f"bench growth: {result.usage.cached_tokens} tokens of {point.context} were in the cache, "
                f"wanted {done}"
            )
        seconds, done = seconds + result.timings.prefill_s, point.context
        point.prefill_s.append(seconds)
        point.decode_s.append(result.timings.decode_s / DECODE_TOKENS)
