"""What a run has measured, what follows from it, and its form as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lanner.bench.cases import Limit
from lanner.bench.contenders import OURS

SCHEMA = 1
"""Of the JSON file; another number when a field changes its meaning."""


@dataclass(frozen=True)
class Result:
    """A case that was measured.

    `samples` are seconds per call, one for each round and contender, in order; `limit_rate` what the machine
    can do per second in the whole run (bytes, or multiply-adds), `limit_then` what it did beside this case.
    """

    case: Mapping[str, Any]
    samples: Mapping[str, Sequence[float]]
    limit_rate: float
    limit_then: float
    fits_cache: bool
    noise: Sequence[str] = ()

    @property
    def name(self) -> str:
        """That of the case."""
        return str(self.case["name"])

    def seconds(self, contender: str = OURS) -> float:
        """Median of a call."""
        return statistics.median(self.samples[contender])

    @property
    def share(self) -> float:
        """Our rate as a share of the machine's limit."""
        per_call = self.case["n_flops"] / 2 if self.case["limit"] == "fma" else self.case["n_bytes"]
        return float(per_call / self.seconds() / self.limit_rate)

    def ratio(self, peer: str) -> float:
        """How many times faster than a peer: the median over rounds, whose turns are neighbours in time."""
        pairs = zip(self.samples[peer], self.samples[OURS], strict=True)
        return statistics.median(theirs / ours for theirs, ours in pairs)

    @property
    def reached(self) -> dict[str, float]:
        """What was reached of each goal, where it was measured."""
        goals = self.case["goals"]
        reached = {peer: self.ratio(peer) for peer in self.samples if peer in goals}
        return reached | ({"limit": self.share} if "limit" in goals else {})

    def as_json(self) -> dict[str, Any]:
        """Everything, with what follows from it."""
        seconds = {contender: self.seconds(contender) for contender in self.samples}
        derived = {
            "seconds": seconds,
            "gb_per_s": self.case["n_bytes"] / seconds[OURS] / 1e9,
            "gflop_per_s": self.case["n_flops"] / seconds[OURS] / 1e9,
            "share_of_limit": self.share,
            "ratios": {peer: self.ratio(peer) for peer in self.samples if peer != OURS},
            "reached": self.reached,
        }
        return asdict(self) | derived


@dataclass(frozen=True)
class Run:
    """All cases with one number of threads. `limits` are per second: bytes, bytes, multiply-adds."""

    n_threads: int
    machine: str
    isa: str
    versions: Mapping[str, str]
    limits: Mapping[Limit, float]
    probes: Mapping[Limit, Sequence[float]]
    noise: Sequence[str]
    results: Sequence[Result] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Everything, with what follows from it."""
        return {**asdict(self), "results": [result.as_json() for result in self.results]}

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> Run:
        """What `as_json` made."""
        names = Result.__dataclass_fields__
        results = [Result(**{n: result[n] for n in names}) for result in stored["results"]]
        fields = {n: stored[n] for n in Run.__dataclass_fields__ if n != "results"}
        return Run(**fields, results=results)


def as_json(runs: Sequence[Run]) -> dict[str, Any]:
    """What `--json` writes: {"schema": 1, "runs": [...]}, a run for each number of threads."""
    return {"schema": SCHEMA, "runs": [run.as_json() for run in runs]}


def from_json(stored: Mapping[str, Any]) -> list[Run]:
    """The runs of a file that `--json` wrote; ValueError where it has another schema."""
    if stored.get("schema") != SCHEMA:
        raise ValueError(f"bench: the file has schema {stored.get('schema')!r}, wanted {SCHEMA}")
    return [Run.from_json(run) for run in stored["runs"]]
