"""What was measured of a model, and what follows from it."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from pathlib import PurePath
from typing import Any, NamedTuple

from lanner.bench.model_costs import ModelCosts

SCHEMA = 1
"""Of the JSON file; another number when a field changes its meaning."""


class Contender(NamedTuple):
    """An engine with one of its settings; of the peer's settings the better one counts."""

    engine: str
    variant: str = ""


LANNER = Contender("lanner")


@dataclass
class Row:
    """One measure: a sample per round for every contender, in `unit`.

    `n_macs` are the multiply-adds behind one unit of the samples, `n_bytes` what must be read for it from
    memory; 0 where a row is not held against that limit of the machine.
    """

    title: str
    unit: str
    higher_is_better: bool
    n_macs: float = 0.0
    n_bytes: float = 0.0
    samples: dict[Contender, list[float]] = field(default_factory=dict)

    def add(self, contender: Contender, value: float) -> None:
        """One more round."""
        self.samples.setdefault(contender, []).append(value)

    def median(self, contender: Contender) -> float:
        """The middle of a contender's rounds."""
        return statistics.median(self.samples[contender])

    @property
    def peer(self) -> Contender | None:
        """The peer's better setting, by its median; None where Lanner is alone."""
        peers = [contender for contender in self.samples if contender != LANNER]
        return (max if self.higher_is_better else min)(peers, key=self.median, default=None)

    @property
    def contenders(self) -> list[Contender]:
        """Lanner, and the peer's better setting."""
        return [LANNER, *([self.peer] if self.peer else [])]

    @property
    def ratios(self) -> list[float]:
        """Lanner / peer of each round, sorted: neighbours in time, so that a slow minute slows both."""
        peer = self.peer
        pairs = zip(self.samples[LANNER], self.samples[peer], strict=True) if peer else ()
        return sorted(ours / theirs for ours, theirs in pairs)

    @property
    def ratio(self) -> float | None:
        """The middle of the ratios; None where Lanner is alone."""
        return statistics.median(self.ratios) if self.peer else None

    @property
    def spread(self) -> str:
        """The range of the ratios; nothing where Lanner is alone."""
        return f"{self.ratios[0]:.2f}-{self.ratios[-1]:.2f}" if self.peer else ""

    def number(self, value: float) -> str:
        """A sample with its unit, three digits of it."""
        return f"{value:.0f} {self.unit}" if value >= 100 else f"{value:.3g} {self.unit}"


@dataclass
class ModelRun:
    """Everything that a run learned of a model.

    `engines` is what the engines said when they loaded, `limits` what the machine can do per second with
    these threads: bytes that it reads ("read"), float32 multiply-adds ("fma").
    """

    model: str
    machine: str
    n_threads: int
    costs: ModelCosts
    engines: dict[str, dict[str, Any]] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The file's."""
        return PurePath(self.model).name

    def limit(self, row: Row) -> float | None:
        """What a perfect engine would reach, in the unit of the row; None where nothing limits it.

        The bandwidth, the float32 multiply-adds, or the lower of the two. Memory is limited by the file.
        """
        bounds = []
        if row.n_bytes:
            bounds.append(self.limits["read"] / row.n_bytes)
        if row.n_macs:
            bounds.append(self.limits["fma"] / row.n_macs)
        if row.unit == "MB":
            bounds.append(self.costs.file_bytes / 1e6)
        return min(bounds, default=None)

    def is_bound_by_memory(self, row: Row) -> bool:
        """Whether it is the bandwidth that limits a row."""
        return bool(row.n_bytes) and self.limit(row) == self.limits["read"] / row.n_bytes

    def against_limit(self, row: Row, contender: Contender) -> str:
        """A median in the unit of the machine's limit, with its share of it; memory as more than the file."""
        rate, limit = row.median(contender), self.limit(row)
        if limit is None:
            return ""
        if row.unit == "MB":
            return f"file + {rate - limit:.0f} MB"
        if self.is_bound_by_memory(row):
            return f"{rate * row.n_bytes / 1e9:.1f} GB/s, {rate / limit:.0%}"
        return f"{rate * row.n_macs / 1e9:.0f} GMAC/s, {rate / limit:.0%}"

    def as_json(self) -> dict[str, Any]:
        """Every sample, with what follows from it."""
        rows = []
        for row in self.rows:
            samples = {" ".join(filter(None, who)): values for who, values in row.samples.items()}
            derived = {
                "limit": self.limit(row),
                "ratio": row.ratio,
                "ratios": row.ratios,
                "peer": " ".join(filter(None, row.peer)) if row.peer else None,
            }
            rows.append(asdict(row) | {"samples": samples} | derived)
        names = ("model", "machine", "n_threads", "engines", "limits", "notes")
        return {name: getattr(self, name) for name in names} | {"costs": asdict(self.costs), "rows": rows}


def as_json(runs: list[ModelRun]) -> dict[str, Any]:
    """What `--json` writes: {"schema": 1, "models": [...]}."""
    return {"schema": SCHEMA, "models": [run.as_json() for run in runs]}
