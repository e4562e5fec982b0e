"""Tables of measured models: for a terminal, and in Markdown."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lanner.bench.model_results import LANNER, ModelRun, Row

if TYPE_CHECKING:
    from rich.console import Console

HOW = (
    "Both engines have the same file and the same number of threads and take turns in one run; only one "
    "computes at a time. Figures are medians of {rounds}. The ratio is Lanner / llama.cpp, in "
    "the median of the rounds and with its range: of tokens/s more is better, of seconds and memory "
    "less. llama.cpp runs with flash attention on and off, a whole process with its class Llama and "
    "with its C interface; the better counts. Lanner's whole process maps the packed weights that an "
    "earlier one kept, as all but the first with a model do (`lanner bench coldstart` measures both). "
    "The limits are what as many threads reach in the same run: bytes read from memory for decoding, "
    "float32 multiply-adds for prompts (weights of 2 to 8 bits are multiplied in integers and may pass them)."
)


def facts(run: ModelRun) -> list[str]:
    """The machine, the versions and the limits, a line each."""
    versions = [f"{e['name']} {e['version']} ({e['features']})" for e in run.engines.values()]
    return [
        f"machine: {run.machine}, {run.n_threads} thread{'s' * (run.n_threads > 1)}",
        f"file: {run.name}, {_file(run)}",
        *versions,
        f"limits: {_limits(run)}",
    ]


def _file(run: ModelRun) -> str:
    costs = run.costs
    return (
        f"{costs.file_bytes / 1e6:.1f} MB, {costs.n_params / 1e6:.0f} million parameters, "
        f"{costs.weight_bytes / 1e6:.1f} MB of weights read per step"
    )


def _limits(run: ModelRun) -> str:
    return (
        f"{run.limits['read'] / 1e9:.1f} GB/s of memory reads, "
        f"{run.limits['fma'] / 1e9:.0f} billion float32 multiply-adds per second"
    )


def _cells(run: ModelRun, row: Row) -> list[str]:
    """Of a row: title, figure and share of the limit of each engine; with a peer, ratio and range."""
    cells = [row.title]
    for contender in row.contenders:
        cells += [row.number(row.median(contender)), run.against_limit(row, contender)]
    if row.peer is not None:
        cells += [f"{row.ratio:.2f}", row.spread, row.peer.variant]
    return cells


def _columns(run: ModelRun) -> list[str]:
    columns = ["", "Lanner", "of the limit"]
    if len(run.engines) > 1:
        columns += ["llama.cpp", "of the limit", "ratio", "range", "llama.cpp with"]
    return columns


def show(run: ModelRun, to: Console) -> None:
    """The table of a model for a terminal, then what was measured on what."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    table.collapse_padding = True
    for i, title in enumerate(_columns(run)):
        is_figure = title in ("Lanner", "llama.cpp", "ratio")
        table.add_column(title, justify="right" if is_figure else "left", no_wrap=i != 0)
    for row in run.rows:
        table.add_row(*map(Text, _cells(run, row)))
    to.print(table)
    for line in facts(run):
        to.print(Text(line, "dim"), soft_wrap=True)
    for note in run.notes:
        to.print(Text(f"note: {note}", "yellow"), soft_wrap=True)


def markdown_table(run: ModelRun) -> list[str]:
    """The lines of a model's table."""
    columns = _columns(run)
    rules = ["---:" if title in ("Lanner", "llama.cpp", "ratio") else "---" for title in columns]
    lines = [columns, rules, *(_cells(run, row) for row in run.rows)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def markdown(runs: Sequence[ModelRun], today: datetime.date | None = None) -> str:
    """A page: the machine, the versions, the limits, and a table for each model."""
    first = runs[0]
    n_rounds = sorted({len(values) for run in runs for row in run.rows for values in row.samples.values()})
    rounds = " to ".join(map(str, dict.fromkeys((n_rounds[0], n_rounds[-1])))) + " round"
    rounds += "s" * (n_rounds[-1] > 1)
    lines = [
        "# Lanner beside llama.cpp" if len(first.engines) > 1 else "# Lanner beside the machine's limits",
        "",
        f"- {(today or datetime.date.today()).isoformat()}",
        f"- {first.machine}, {os.cpu_count()} processors; {first.n_threads} threads for each engine",
        *(f"- {e['name']} {e['version']} ({e['features']})" for e in first.engines.values()),
        "",
    ]
    if len(first.engines) > 1:
        lines += [*_wrapped(HOW.format(rounds=rounds)), ""]
    if len(runs) > 1:
        lines += [*_summary(runs), ""]
    for run in runs:
        lines += [f"## {run.name}", "", f"{_file(run)}.", f"Limits beside it: {_limits(run)}.", ""]
        lines += [*markdown_table(run), ""]
        lines += [*(f"- {note}" for note in run.notes), *([""] if run.notes else [])]
    return "\n".join(lines)


def _summary(runs: Sequence[ModelRun]) -> list[str]:
    """The lines of a table with a column for each model: figures of Lanner, with their ratio or share."""
    titles = list(dict.fromkeys(row.title for run in runs for row in run.rows))
    lines = [["", *(run.name for run in runs)], ["---", *["---:"] * len(runs)]]
    for title in titles:
        cells = [title]
        for run in runs:
            row = next((row for row in run.rows if row.title == title), None)
            cells.append("-" if row is None else _figure(run, row))
        lines.append(cells)
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _figure(run: ModelRun, row: Row) -> str:
    beside = f"{row.ratio:.2f}x" if row.ratio is not None else run.against_limit(row, LANNER)
    return f"{row.number(row.median(LANNER))} ({beside})" if beside else row.number(row.median(LANNER))


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 120)
