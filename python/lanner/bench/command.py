"""`lanner bench`: what its first argument names."""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def bench(args: argparse.Namespace) -> int:
    """Run what `args.what` names; the exit status."""
    if args.what == "ops":
        from lanner.bench.ops_command import bench_ops

        return bench_ops(args)
    if args.what == "model":
        from lanner.bench.model_command import bench_models

        return bench_models(args)
    if args.what == "coldstart":
        from lanner.bench.coldstart_command import bench_coldstart

        return bench_coldstart(args)
    from lanner.bench.growth_command import bench_growth

    return bench_growth(args)


def check_outputs(*paths: str | None, plot: str | None) -> None:
    """What would fail at the end of a measurement fails before it: folders of files, matplotlib for `plot`.

    Raises ImportError where matplotlib is missing, ValueError where it cannot write such a file, and
    FileNotFoundError where a folder is missing.
    """
    if plot:
        _check_plot(plot)
    for path in (*paths, plot):
        if path and not (folder := Path(path).absolute().parent).is_dir():
            raise FileNotFoundError(2, "no such folder", str(folder))


def _check_plot(path: str) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("--plot needs matplotlib: pip install 'lanner[plot]'")
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = sorted(FigureCanvasBase.get_supported_filetypes())
    if Path(path).suffix[1:].lower() not in kinds:
        raise ValueError(f"--plot: {path}: wanted a name that ends in one of {', '.join(kinds)}")


def write_json(path: str, content: Any) -> None:
    """A JSON file, indented so that versions of it can be compared."""
    Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@contextmanager
def status(title: str) -> Iterator[Callable[[str], None]]:
    """Tells on standard error what is being measured: in one line at a terminal, else in a line each."""
    from lanner.bench.report import console

    screen = console(stderr=True)
    # The terminal is redrawn once a second: more would take time from what is measured.
    with screen.status(title, refresh_per_second=1) as shown:
        yield shown.update if screen.is_terminal else lambda text: screen.print(text, markup=False)
