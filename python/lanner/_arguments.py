"""The arguments of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from lanner import catalog


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without repeating the whole usage.

    `fill` adds the arguments once this parser is chosen: a command need not wait for those of another.
    """

    fill: Callable[[Parser], None] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse has it."""
        fill, self.fill = self.fill, None
        if fill is not None:
            fill(self)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


class _Version(argparse.Action):
    """Looks the version up only when asked: reading package metadata is slow."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib import metadata

        try:
            version = metadata.version("lanner")
        except metadata.PackageNotFoundError:  # run from a source tree
            version = "not installed"
        print(f"lanner {version}")
        parser.exit()


def number(convert: type[int | float], low: float, high: float, wanted: str) -> Callable[[str], float]:
    """Reads a number from `low` to `high`; `wanted` says in an error what these are."""

    def parse(text: str) -> float:
        try:
            value = convert(text)
        except ValueError:
            value = convert(low - 1)
        if not low <= value <= high:  # also false for nan
            raise argparse.ArgumentTypeError(f"{text!r} given, wanted {wanted}")
        return value

    return parse


def parser() -> argparse.ArgumentParser:
    """The parser of `lanner`; the chosen command is in `command`, None without one."""
    top = Parser(prog="lanner", description="Run language models on this computer.")
    top.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = top.add_subparsers(metavar="COMMAND", dest="command")

    def command(name: str, summary: str) -> Parser:
        return commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")

    model_help = "path of a model file, or a name that lanner list shows"
    run = command("run", "generate text from a prompt, through the chat template where the model has one")
    run.add_argument("model", metavar="MODEL", help=model_help)
    run.add_argument("prompt", metavar="PROMPT", nargs="?", help="- or nothing: standard input")
    run.add_argument("--raw", action="store_true", help="continue PROMPT as it is, no chat template")
    chat = command("chat", "talk with a model; /reset forgets the conversation, /exit ends it")
    chat.add_argument("model", metavar="MODEL", nargs="?", default=catalog.DEFAULT_MODEL, help=model_help)
    for talking in (run, chat):
        _add_generation_options(talking)
    fetch = command("pull", "download a model of the catalogue and print its path")
    fetch.add_argument(
        "model", metavar="NAME", nargs="?", default=catalog.DEFAULT_MODEL, help="see lanner list"
    )
    info = command("info", "describe a model")
    info.add_argument("model", metavar="MODEL", help=model_help)
    command("list", "list the models of the catalogue")
    doctor = command("doctor", "describe this computer and measure its speed, once")
    doctor.add_argument("--refresh", action="store_true", help="measure again")
    bench = command("bench", "measure kernels and models beside the limits of the machine")
    bench.fill = _fill_bench
    return top


def _fill_bench(parser: Parser) -> None:
    from lanner._bench_arguments import add_benches

    add_benches(parser)


def _add_generation_options(parser: argparse.ArgumentParser) -> None:
    whole = number(int, 1, 2**31 - 1, "a whole number of at least 1")
    count = number(int, 0, 2**31 - 1, "a whole number of at least 0")
    share = number(float, 0.0, 1.0, "a number from 0 to 1")
    warmth = number(float, 0.0, 1e3, "a number of at least 0")
    add = parser.add_argument
    add("--system", metavar="TEXT", help="a system message before the conversation")
    add("--max-tokens", type=whole, metavar="N", help="stop after N generated tokens")
    add("--temperature", type=warmth, metavar="X", help="0 (the default) always takes the likeliest token")
    add("--top-k", type=count, metavar="N", help="sample among the N likeliest tokens; 0: all")
    add("--top-p", type=share, metavar="X", help="sample among the likeliest tokens that sum to X")
    add("--min-p", type=share, metavar="X", help="drop tokens less likely than X times the likeliest")
    add(
        "--seed",
        type=number(int, 0, 2**64 - 1, "a whole number below 2**64"),
        metavar="N",
        help="repeats a run",
    )
    add(
        "--speculate",
        choices=["lookup"],
        help="guess tokens that repeat prompt or text; the text stays the same",
    )
    add("--stop", action="append", metavar="TEXT", help="stop before TEXT; may be repeated")
    add("--context", type=whole, metavar="N", help="room for N tokens of prompt and text together")
    add("--threads", type=whole, metavar="N", help="threads to compute with")
    add("--device", choices=("cpu", "cuda"), help="where to compute; cuda: the first NVIDIA GPU")
    add("--stats", action=argparse.BooleanOptionalAction, help="print statistics (default: on a terminal)")
