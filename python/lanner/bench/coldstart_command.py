"""`lanner bench coldstart`: a table of the parts of a cold start, and JSON."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

import lanner
from lanner._threads import default_threads
from lanner.bench import report
from lanner.bench.coldstart import PARTS, ColdStart, Start, measure
from lanner.bench.command import check_outputs, status, write_json
from lanner.bench.engine_process import peer_interpreter
from lanner.bench.model_run import short_prompt

if TYPE_CHECKING:
    from rich.table import Table


def bench_coldstart(args: argparse.Namespace) -> int:
    """Run the command; `args` has paths, vs, peer_python, threads, runs and json."""
    check_outputs(args.json, plot=None)
    peer_python = peer_interpreter(args.peer_python) if args.vs else None
    n_threads = args.threads or default_threads()[0]
    found, screen = [], report.console()
    for path in args.paths:  # what a child would fail with, in one line
        lanner.estimate(path)
    for path in args.paths:
        with status(path.name) as tell:
            found.append(
                measure(
                    str(path),
                    short_prompt(),
                    n_threads=n_threads,
                    n_runs=args.runs,
                    peer_python=peer_python,
                    tell=tell,
                )
            )
        screen.print(table(found[-1]))
        screen.print()
        if args.json:
            write_json(args.json, [each.as_json() for each in found])
    return 0


def table(found: ColdStart) -> Table:
    """Medians: milliseconds of each part and its share, the whole process, its peak memory."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    n = len(found.starts[0].seconds)
    made = Table(
        box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold", title_justify="left",
        title=f"{Path(found.model).name}, {found.n_threads} threads, medians of {n}",
    )  # fmt: skip
    made.add_column("", no_wrap=True)
    for start in found.starts:
        made.add_column(start.title, justify="right")
    for part in PARTS:
        made.add_row(part, *(_part(start, part) for start in found.starts))
    made.add_section()
    ours = found.starts[0].median_s()
    wholes = [f"{1e3 * start.median_s():.0f} ms" for start in found.starts]
    made.add_row("whole process", *wholes)
    made.add_row("its fastest run", *(f"{1e3 * min(start.seconds):.0f} ms" for start in found.starts))
    made.add_row("its very first run", *(f"{1e3 * start.first_s:.0f} ms" for start in found.starts))
    closes = [start.first_close_s for start in found.starts]
    made.add_row("close of that", *("" if close is None else f"{1e3 * close:.0f} ms" for close in closes))
    made.add_row("processor time", *(f"{1e3 * statistics.median(s.cpu_s):.0f} ms" for s in found.starts))
    made.add_row("share of it", *(f"{ours / start.median_s():.2f}" for start in found.starts))
    made.add_row("peak memory", *(_memory(start, found.file_bytes) for start in found.starts))
    return made


def _part(start: Start, part: str) -> str:
    if part not in start.parts:
        return ""
    seconds = statistics.median(start.parts[part])
    return f"{1e3 * seconds:.1f} ms {seconds / start.median_s():4.0%}"


def _memory(start: Start, file_bytes: int) -> str:
    peak = statistics.median(start.peak_bytes)
    return f"{peak / 1e6:.0f} MB (file {(peak - file_bytes) / 1e6:+.0f})"
