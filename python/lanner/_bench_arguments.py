"""The arguments of `lanner bench`."""

from __future__ import annotations

import argparse
from typing import Any

from lanner._arguments import number
from lanner.catalog import DEFAULT_MODEL

ROWS = ("prefill", "short", "decode", "context", "parallel", "process")
"""Rows of `lanner bench model`, in their order; `lanner.bench.model_run` says what each is."""

_COUNT = number(int, 1, 2**31 - 1, "a whole number of at least 1")
_THREADS = number(int, 1, 255, "a whole number from 1 to 255")
_SECONDS = number(float, 0.0, 1e6, "a number of at least 0")


def add_benches(parser: argparse.ArgumentParser) -> None:
    """A parser for each thing that can be measured; the chosen one is in `what`."""
    benches = parser.add_subparsers(metavar="WHAT", dest="what", required=True)

    def bench(name: str, summary: str) -> Any:
        made = benches.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        return made.add_argument

    _add_ops(bench("ops", "the operations of lanner.ops, on arrays, beside NumPy and PyTorch"))
    _add_model(bench("model", "a model: prompts, decoding, many callers, cold start and memory"))
    _add_coldstart(bench("coldstart", "where the time goes from python to a first token, part by part"))
    _add_growth(bench("growth", "how the cost of a token grows with the context and the size of the model"))


def _add_ops(add: Any) -> None:
    add(
        "--threads",
        type=_THREADS,
        action="append",
        metavar="N",
        help="measure with N threads; may be repeated (default: 1, and what the machine grants)",
    )
    add(
        "--filter",
        action="append",
        metavar="SUBSTRING",
        help="only cases with it in their name; may be repeated",
    )
    add("--quick", action="store_true", help="few and short rounds: a first look")
    add("--json", metavar="FILE", help="write every sample and what follows from it")
    add("--plot", metavar="FILE", help="draw a roofline, such as roofline.png; needs matplotlib")


def _add_model(add: Any) -> None:
    _add_models(add)
    _add_peer(add)
    add("--runs", type=_COUNT, default=5, metavar="N", help="rounds of each row (default: 5)")
    add(
        "--rows",
        type=_rows,
        default=ROWS,
        metavar="ROW,...",
        help=f"only these, of {', '.join(ROWS)} (default: all)",
    )
    add(
        "--context",
        type=_COUNT,
        default=4096,
        metavar="N",
        help="tokens behind which the row context decodes",
    )
    add(
        "--parallel",
        type=_COUNT,
        default=8,
        metavar="N",
        help="sequences that the row parallel decodes together",
    )
    add(
        "--row-seconds",
        type=_SECONDS,
        default=120.0,
        metavar="S",
        help="fewer rounds, or none, where a row would take longer (default: 120)",
    )
    add(
        "--patience",
        type=_SECONDS,
        default=5.0,
        metavar="S",
        help="how long a row waits, and repeats rounds, for other programs to rest (default: 5)",
    )
    add("--markdown", metavar="FILE", help="write the tables as a page")
    add("--json", metavar="FILE", help="write every sample and what follows from it")
    add(
        "--plot",
        metavar="FILE",
        help="draw bars with the limits, such as model.png or .svg; needs matplotlib",
    )


def _add_growth(add: Any) -> None:
    _add_models(add)
    add("--runs", type=_COUNT, default=3, metavar="N", help="rounds of each model (default: 3)")
    add("--context", type=_COUNT, default=16384, metavar="N", help="longest context (default: 16384)")
    add(
        "--model-seconds",
        type=_SECONDS,
        default=60.0,
        metavar="S",
        help="no further round of a model that has taken so long (default: 60)",
    )
    add("--json", metavar="FILE", help="write every sample and what is expected")
    add("--plot", metavar="FILE", help="draw it, such as growth.png or .svg; needs matplotlib")


def _add_coldstart(add: Any) -> None:
    _add_models(add, nargs="*", default=[DEFAULT_MODEL])
    _add_peer(add)
    add("--runs", type=_COUNT, default=9, metavar="N", help="processes of each kind, in turns (default: 9)")
    add("--json", metavar="FILE", help="write every sample")


def _add_peer(add: Any) -> None:
    add("--vs", choices=["llama-cpp"], metavar="llama-cpp", help="take turns with llama.cpp on the same file")
    add(
        "--peer-python",
        metavar="PYTHON",
        help="interpreter that has llama_cpp (default: the one that runs this)",
    )


def _add_models(add: Any, **options: Any) -> None:
    options = {"nargs": "+"} | options
    add("models", metavar="MODEL", **options, help="path of a model file, or a name that lanner list shows")
    add(
        "--threads",
        type=_THREADS,
        metavar="N",
        help="threads to compute with (default: what the machine grants)",
    )


def _rows(text: str) -> tuple[str, ...]:
    given = tuple(text.split(","))
    if unknown := [row for row in given if row not in ROWS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} given, wanted some of {','.join(ROWS)}")
    return given
