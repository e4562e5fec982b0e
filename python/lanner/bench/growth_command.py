"""`lanner bench growth`: a curve for each model, as a table, JSON and a picture."""

from __future__ import annotations

import argparse
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from lanner._threads import default_threads
from lanner.bench import report
from lanner.bench.command import check_outputs, status, write_json
from lanner.bench.growth import Growth, as_json, measure_growth
from lanner.bench.machine import Limits

if TYPE_CHECKING:
    from rich.console import Console


def bench_growth(args: argparse.Namespace) -> int:
    """Run the command; `args` has paths, threads, runs, context, model_seconds, json and plot.

    Files are written again after each model.
    """
    check_outputs(args.json, plot=args.plot)
    curves, screen = list[Growth](), report.console()
    limits = Limits(args.threads or default_threads()[0])
    for path in args.paths:
        with status(Path(path).name) as tell:
            curves.append(
                measure_growth(
                    str(path),
                    limits,
                    longest=args.context,
                    n_rounds=args.runs,
                    model_s=args.model_seconds,
                    tell=tell,
                )
            )
        show(curves[-1], screen)
        screen.print()
        for curve in curves:  # the best of all probes is what the machine can do
            curve.limits = curves[-1].limits
        if args.json:
            write_json(args.json, as_json(curves))
        if args.plot:
            from lanner.bench.growth_plot import picture

            picture(curves, args.plot)
    return 0


def show(curve: Growth, to: Console) -> None:
    """The table of a curve: milliseconds per token, and what is expected of the machine."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    titles = (
        "context",
        "prompt, ms per token",
        "from FLOPs",
        "decode, ms per token",
        "from bytes",
        "prompt, s",
    )
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for point in curve.points:
        per_token = (
            point.prefill_s_per_token,
            curve.expected_prefill_s_per_token(point.context),
            point.decode_s_per_token,
            curve.expected_decode_s_per_token(point.context),
        )
        cells = [f"{1e3 * seconds:.3g}" for seconds in per_token]
        table.add_row(str(point.context), *cells, f"{point.prefill_s_per_token * point.context:.3g}")
    to.print(
        Text(f"{PurePath(curve.model).name}, {curve.n_threads} thread{'s' * (curve.n_threads > 1)}", "bold")
    )
    to.print(table)
    limits = (
        f"expected of {curve.limits['fma'] / 1e9:.0f} billion float32 multiply-adds and "
        f"{curve.limits['read'] / 1e9:.1f} GB/s of memory reads"
    )
    to.print(Text(limits, "dim"), soft_wrap=True)
    for line in curve.noise:
        to.print(Text(f"NOISY MACHINE: {line}", "bold yellow"), soft_wrap=True)
