"""`lanner bench ops`: a worker for every number of threads, then tables, JSON and a picture."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable

from lanner._threads import default_threads
from lanner.bench import report
from lanner.bench.cases import selected
from lanner.bench.command import check_outputs, write_json
from lanner.bench.machine import environment
from lanner.bench.results import Run, as_json

Tell = Callable[[str, int, int], object]


class WorkerError(ValueError):
    """A worker that could not measure, with what it said."""


def bench_ops(args: argparse.Namespace) -> int:
    """Run the command; `args` has filter, threads, quick, json and plot."""
    filters = tuple(args.filter or ())
    selected(filters)  # an unknown name fails before anything is measured
    check_outputs(args.json, plot=args.plot)
    screen, runs = report.console(), []
    for n_threads in args.threads or default_counts():
        runs.append(_with_progress(n_threads, filters, args.quick))
        report.show(runs[-1], screen)
        screen.print()
    if args.json:
        write_json(args.json, as_json(runs))
    if args.plot:
        from lanner.bench.plot import roofline

        roofline(runs, args.plot)
    return 0


def default_counts() -> list[int]:
    """One thread, and as many as the machine grants."""
    return sorted({1, default_threads()[0]})


def _with_progress(n_threads: int, filters: tuple[str, ...], quick: bool) -> Run:
    """Measure with a bar on standard error, where that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn(f"{n_threads} threads" if n_threads > 1 else "1 thread "), BarColumn())
    screen = report.console(stderr=True)
    with Progress(
        *columns, MofNCompleteColumn(), TextColumn("{task.description}"), console=screen, transient=True,
        disable=not screen.is_terminal, refresh_per_second=1,
    ) as bar:  # fmt: skip
        task = bar.add_task("limits of the machine", total=None)
        return run_worker(
            n_threads, filters, quick,
            lambda name, index, of: bar.update(task, description=name, completed=index, total=of),
        )  # fmt: skip


def run_worker(
    n_threads: int, filters: tuple[str, ...], quick: bool, tell: Tell = lambda name, index, of: None
) -> Run:
    """Measure in a child process. Raises WorkerError with its own words where it fails."""
    request = json.dumps({"n_threads": n_threads, "filters": filters, "quick": quick})
    command = [sys.executable, "-m", "lanner.bench.worker", request]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment(n_threads)
    ) as child:
        assert child.stdout is not None
        try:
            for text in child.stdout:
                if not text.startswith("{"):  # an import that talks
                    continue
                line = json.loads(text)
                if "error" in line:
                    raise WorkerError(line["error"])
                if "run" in line:
                    return Run.from_json(line["run"])
                tell(line["case"], line["index"], line["of"])
        except BaseException:
            child.terminate()
            raise
    raise WorkerError(f"the worker with {n_threads} threads ended with status {child.returncode}")
