"""The result of a comparison, and its tables."""

from __future__ import annotations

import platform
import statistics
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, NamedTuple


class Contender(NamedTuple):
    """An engine with one of its settings; of the peer's settings the better one counts."""

    engine: str
    variant: str = ""


LANNER = Contender("lanner")


@dataclass
class Row:
    """One measure: a sample per round for every contender, in `unit`.

    `n_macs` are the multiply-adds behind one unit of the samples, `n_bytes` the bytes of weights; 0 where a
    row is not held against that limit of the machine.
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
    def peer(self) -> Contender:
        """The peer's better setting, by its median."""
        peers = [contender for contender in self.samples if contender != LANNER]
        return (max if self.higher_is_better else min)(peers, key=self.median)

    @property
    def ratios(self) -> list[float]:
        """Lanner / peer of each round, sorted: neighbours in time, so that a slow minute slows both."""
        pairs = zip(self.samples[LANNER], self.samples[self.peer], strict=True)
        return sorted(ours / theirs for ours, theirs in pairs)

    @property
    def ratio(self) -> float:
        """The middle of the ratios."""
        return statistics.median(self.ratios)

    def formatted(self, contender: Contender) -> str:
        """The median with its unit, three digits of it."""
        value = self.median(contender)
        return f"{value:.0f} {self.unit}" if value >= 100 else f"{value:.3g} {self.unit}"


@dataclass
class Comparison:
    """Everything that a run learned.

    `engines` is what the workers said when they loaded, `limits` what the machine can do (bytes and float32
    multiply-adds per second with these threads), `costs` what the file makes a step read and multiply.
    """

    model: str
    n_threads: int
    engines: dict[str, dict[str, Any]]
    limits: dict[str, float]
    costs: dict[str, float]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def against_limit(self, row: Row, contender: Contender) -> str:
        """The median as bytes or multiply-adds per second, and as a share of the machine's limit."""
        rate = row.median(contender)
        if row.n_bytes:
            share = rate * row.n_bytes / self.limits["read_bandwidth"]
            return f"{rate * row.n_bytes / 1e9:.1f} GB/s, {share:.0%}"
        if row.n_macs:
            return f"{rate * row.n_macs / 1e9:.0f} GMAC/s, {rate * row.n_macs / self.limits['fma']:.0%}"
        if row.unit == "MB":
            return f"file + {rate - self.costs['file_bytes'] / 1e6:.0f} MB"
        return ""

    def facts(self) -> list[str]:
        """The machine, the versions and the limits, a line each."""
        lanner, peer = self.engines["lanner"], self.engines["llama.cpp"]
        return [
            f"machine: {cpu_name()}, {self.n_threads} threads on both sides",
            f"file: {PurePath(self.model).name}, {self.costs['file_bytes'] / 1e6:.1f} MB, "
            f"{self.costs['weight_bytes'] / 1e6:.1f} MB of weights read per step",
            f"Lanner {lanner['version']} ({lanner['features']}); {peer['version']} ({peer['features']})",
            f"limits: {self.limits['read_bandwidth'] / 1e9:.1f} GB/s of memory reads, "
            f"{self.limits['fma'] / 1e9:.0f} billion float32 multiply-adds per second ({lanner['features']})",
        ]


def cpu_name() -> str:
    """The processor's own name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


TEXT_COLUMNS = ("", "Lanner", "of the limit", "llama.cpp", "of the limit", "ratio (range)", "llama.cpp with")


def as_text(c: Comparison) -> str:
    """The table for a terminal, with the range of the ratios and both sides of the limits."""
    table = [TEXT_COLUMNS]
    for row in c.rows:
        sides = [(row.formatted(who), c.against_limit(row, who)) for who in (LANNER, row.peer)]
        spread = f"{row.ratio:.2f} ({row.ratios[0]:.2f}-{row.ratios[-1]:.2f})"
        table.append((row.title, *sides[0], *sides[1], spread, row.peer.variant))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in table]
    return "\n".join([*lines, "", *c.facts(), *(f"note: {note}" for note in c.notes)])


def as_markdown(c: Comparison) -> str:
    """The README's table."""
    lines = ["| | Lanner | llama.cpp | ratio | Lanner against the machine |", "|---|---:|---:|---:|---|"]
    for row in c.rows:
        cells = [row.title, row.formatted(LANNER), row.formatted(row.peer), f"{row.ratio:.2f}"]
        lines.append(f"| {' | '.join(cells)} | {c.against_limit(row, LANNER)} |")
    return "\n".join([*lines, "", *(f"- {line}" for line in [*c.facts(), *c.notes])])


def as_json(c: Comparison) -> dict[str, Any]:
    """Every sample, with what the tables say."""
    return {
        "model": c.model,
        "machine": cpu_name(),
        "n_threads": c.n_threads,
        "engines": c.engines,
        "limits": c.limits,
        "costs": c.costs,
        "notes": c.notes,
        "rows": [
            {
                "title": row.title,
                "unit": row.unit,
                "higher_is_better": row.higher_is_better,
                "ratio": row.ratio,
                "ratios": row.ratios,
                "peer_setting": row.peer.variant,
                "samples": {" ".join(filter(None, who)): values for who, values in row.samples.items()},
            }
            for row in c.rows
        ],
    }
