"""The command line, `lanner`: run, chat, pull, info, list, doctor, bench.

Results go to standard output and nothing else does; notes, statistics and errors go to standard error.
Exit codes: 0; 1 error; 2 wrong command line; 130 Ctrl-C; 141 the reader of the output has left.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanner import catalog
from lanner._arguments import parser
from lanner._terminal import TextOutput, note, pull, statistics

if TYPE_CHECKING:
    from lanner.llm import Model
    from lanner.result import Chunk, GenerationResult

_ERRORS = ("ModelFileError", "UnsupportedModelError", "OutOfMemoryBudget", "DeviceError", "Cancelled")
_SAMPLING = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "stop", "speculate")
_LOADING = ("context", "threads", "device")


class UsageError(Exception):
    """A command line that argparse accepts and that still makes no sense."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (default: the process's own) and returns the exit code."""
    top = parser()
    try:
        args = top.parse_args(argv)
    except SystemExit as stopped:  # argparse has printed the help, the version or the error
        return int(stopped.code or 0)
    if args.command is None:
        top.print_help(sys.stderr)
        return 2
    try:
        code = _COMMANDS[args.command](args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        if sys.stdout.isatty():
            print(file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python flushes standard output once more at exit, which must not fail then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except UsageError as error:
        print(f"lanner {args.command}: {error}", file=sys.stderr)
        return 2
    except _expected_errors() as error:
        print(f"lanner {args.command}: {_one_line(error)}", file=sys.stderr)
        return 1


def _expected_errors() -> tuple[type[BaseException], ...]:
    """What a user can cause; everything else is a defect and keeps its traceback."""
    general = (catalog.PullError, ValueError, OSError, ImportError, MemoryError)
    import lanner

    try:
        return (*general, *(getattr(lanner, name) for name in _ERRORS))
    except ImportError:  # LANNER_ISA names a set that cannot run here: no kernel, no errors of its own
        return general


def _one_line(error: BaseException) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"the input is not UTF-8: {error.reason} at byte {error.start}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _path(name: str) -> Path:
    """The path of a model, pulled now if it is in the catalogue and not in the cache."""
    entry = catalog.find(name)
    return pull(entry) if entry and catalog.local_path(entry) is None else catalog.resolve(name)


def _given(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """The options that were given; the library's own defaults hold for the others."""
    return {name: value for name in names if (value := getattr(args, name, None)) is not None}


@contextlib.contextmanager
def _opened(args: argparse.Namespace) -> Iterator[Model]:
    if args.device == "cuda" and catalog.find(args.model):
        from lanner.cuda.library import library

        library().device_info()  # a GPU that is missing is told of before a model is pulled for it
    path = _path(args.model)
    import lanner

    with lanner.load(path, **_given(args, _LOADING)) as model:
        yield model


def _conversation(args: argparse.Namespace) -> list[Mapping[str, str]]:
    return [] if args.system is None else [{"role": "system", "content": args.system}]


def _say(chunks: Iterator[Chunk], out: TextOutput, said: list[str]) -> GenerationResult | None:
    """Writes chunks as they come and collects their text in `said`; returns the whole result."""
    result = None
    with contextlib.closing(chunks):  # type: ignore[type-var]  # ends the generation on Ctrl-C too
        for chunk in chunks:
            said.append(chunk.text)
            out.write(chunk.text)
            result = chunk.result or result
    out.end_line()
    return result


def _report(args: argparse.Namespace, model: Model, result: GenerationResult | None) -> None:
    from lanner._doctor import cached_bandwidth

    if result is not None:
        note(statistics(result, model.info().weight_bytes_per_token, cached_bandwidth()))


def _run(args: argparse.Namespace) -> int:
    prompt, out = _prompt(args), TextOutput()
    with _opened(args) as model:
        templated = not args.raw and bool(model.tokenizer.chat_template)
        if args.system is not None and not templated:
            raise UsageError(
                "--system needs a chat template, and " + ("--raw" if args.raw else "none is in the file")
            )
        options = _given(args, _SAMPLING)
        if templated:
            chunks = model.stream_chat([*_conversation(args), {"role": "user", "content": prompt}], **options)
        else:
            chunks = model.stream(prompt, **options)
        result = _say(chunks, out, [])
        if sys.stderr.isatty() if args.stats is None else args.stats:
            _report(args, model, result)
    return 0


def _prompt(args: argparse.Namespace) -> str:
    """The prompt from the command line, or all of standard input less the newline that ends its last line."""
    if args.prompt not in (None, "-"):
        return str(args.prompt)
    if args.prompt is None and sys.stdin.isatty():
        raise UsageError("PROMPT is missing; give it as an argument, or - to read standard input")
    return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n").removesuffix("\r")


def _chat(args: argparse.Namespace) -> int:
    out = TextOutput()
    interactive = sys.stdin.isatty() and out.is_tty
    with _opened(args) as model:
        if not model.tokenizer.chat_template:
            raise UsageError(f"{args.model} has no chat template; use: lanner run {args.model}")
        messages = _conversation(args)
        while (line := _next_line(interactive)) is not None and line.strip() != "/exit":
            if line.strip() == "/reset":
                messages = _conversation(args)
            elif line.strip():
                _answer(args, model, messages, line, out, interactive)
    return 0


def _answer(
    args: argparse.Namespace,
    model: Model,
    messages: list[Mapping[str, str]],
    line: str,
    out: TextOutput,
    interactive: bool,
) -> None:
    """One turn, appended to `messages`. At a terminal, Ctrl-C ends the answer and not the conversation."""
    said: list[str] = []
    asked = [*messages, {"role": "user", "content": line}]
    try:
        result = _say(model.stream_chat(asked, **_given(args, _SAMPLING)), out, said)
        if args.stats:
            _report(args, model, result)
    except KeyboardInterrupt:
        if not interactive:
            raise
        out.end_line()
    except ValueError as error:
        if not interactive:
            raise
        note(f"{_one_line(error)} (/reset forgets the conversation)")
        return
    if not out.is_tty:
        out.write("\n")  # one line break between the answers of a conversation that is piped
    messages[:] = [*asked, {"role": "assistant", "content": "".join(said)}]


def _next_line(interactive: bool) -> str | None:
    """The next line of the user, or None at the end of the input."""
    if interactive:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (gives input() its history and editing)
        try:
            return input("> ")
        except EOFError:
            print()
            return None
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    raw = sys.stdin.buffer.readline()
    return raw.decode("utf-8").rstrip("\r\n") if raw else None


def _pull(args: argparse.Namespace) -> int:
    entry = catalog.find(args.model)
    if entry is None:
        catalog.pull(args.model)  # raises, naming the nearest
    else:
        print(catalog.local_path(entry) or pull(entry))
    return 0


def _info(args: argparse.Namespace) -> int:
    from lanner._info import info_lines

    for label, value in info_lines(_path(args.model)):
        print(f"{label:<16} {value}")
    return 0


def _list(_: argparse.Namespace) -> int:
    for entry in catalog.listed():
        state = "downloaded" if catalog.local_path(entry) else f"{entry.wheel_bytes / 1e6:.0f} MB to pull"
        print(f"{entry.name:<14} {state:<16} {entry.summary}; {entry.license}")
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from lanner._doctor import doctor

    print(doctor(refresh=args.refresh))
    return 0


def _bench(args: argparse.Namespace) -> int:
    from lanner.bench.command import bench

    args.paths = [_path(name) for name in getattr(args, "models", ())]
    return bench(args)


_COMMANDS = {
    "run": _run,
    "chat": _chat,
    "pull": _pull,
    "info": _info,
    "list": _list,
    "doctor": _doctor,
    "bench": _bench,
}

if __name__ == "__main__":
    sys.exit(main())
