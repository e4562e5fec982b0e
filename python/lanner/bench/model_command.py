"""`lanner bench model`: the table of a user's own file, as text, Markdown, JSON and a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from lanner._threads import default_threads
from lanner.bench import report
from lanner.bench.command import check_outputs, status, write_json
from lanner.bench.engine_process import peer_interpreter
from lanner.bench.model_costs import model_costs
from lanner.bench.model_report import markdown, show
from lanner.bench.model_results import as_json
from lanner.bench.model_run import Plan, measure_model


def bench_models(args: argparse.Namespace) -> int:
    """Run the command; `args` has paths, vs, peer_python, threads, runs, rows, context, parallel, patience,
    row_seconds, json, markdown and plot. Files are written again after each model."""  # fmt: skip
    check_outputs(args.json, args.markdown, plot=args.plot)
    for path in args.paths:
        if args.vs and Path(path).is_dir():
            raise ValueError(f"--vs llama-cpp: {path} is a folder, wanted a GGUF file")
        model_costs(path)  # what cannot be loaded fails before another model is measured
    plan = Plan(
        n_threads=args.threads or default_threads()[0],
        n_runs=args.runs,
        rows=tuple(args.rows),
        n_context=args.context,
        n_parallel=args.parallel,
        patience_s=args.patience,
        row_s=args.row_seconds,
        peer_python=peer_interpreter(args.peer_python) if args.vs else None,
    )
    runs, screen = [], report.console()
    for path in args.paths:
        with status(Path(path).name) as tell:
            runs.append(measure_model(str(path), plan, tell))
        show(runs[-1], screen)
        screen.print()
        if args.json:
            write_json(args.json, as_json(runs))
        if args.markdown:
            Path(args.markdown).write_text(markdown(runs), encoding="utf-8")
        if args.plot:
            from lanner.bench.model_plot import bars

            bars(runs, args.plot)
    return 0
