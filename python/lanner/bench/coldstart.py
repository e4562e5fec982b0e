"""Where the time goes from `python` to the first token, in processes that end after it.

A process marks the time around public calls, and around those that `lanner.load` makes of other modules. It
cannot see its own beginning and end: these are what a process takes beyond its marks, of which a process that
does nothing says how much is Python's own.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from lanner.bench.first_token import FIRST_TOKEN
from lanner.bench.whole_process import WholeProcess, run_whole

SCHEMA = 2
"""Of the JSON file; another number when a field changes its meaning."""

PARTS = (
    "Python",
    "import",
    "open",
    "program",
    "tokenizer",
    "packing",
    "engine",
    "first token",
    "close",
    "exit",
)
"""In their order. `program`: sizes, names and memory of weights, instructions; `packing`: what is left of it
when the tokenizer is read, before which it went on beside; `close` writes packed weights that are new."""

MARKED = """
import sys, time
marks = []
def mark(part): marks.append((part, time.perf_counter()))
def marked(owner, name, part):
    inner = getattr(owner, name)
    def outer(*args, **options):
        made = inner(*args, **options)
        mark(part)
        return made
    setattr(owner, name, outer)
mark("begin")
import lanner
lanner.load
from lanner import checkpoint, decoder, models, tokenizer_files
mark("import")
marked(checkpoint, "open_checkpoint", "open")
marked(decoder.Decoder, "__init__", "program")
marked(tokenizer_files, "tokenizer_of", "tokenizer")
marked(decoder.Decoder, "wait", "packing")
with lanner.load(sys.argv[1], threads=int(sys.argv[2])) as model:
    stream = model.stream(sys.argv[3], max_tokens=1, ignore_eos=True)
    mark("engine")
    next(iter(stream))
    mark("first token")
mark("close")
print(" ".join(f"{part.replace(' ', '_')}={at!r}" for part, at in marks), flush=True)
"""
"""A program that prints when its parts were done. argv: model file, threads, prompt."""


@dataclass(frozen=True)
class Start:
    """The processes of one model in one state: `parts` has the seconds of each part, an item for each run.

    `first_s` is the very first run, which is not among them, and `first_close_s` what closing the model took
    of it, the writing of packed weights where they were not kept yet; None of a peer.
    """

    title: str
    first_s: float
    first_close_s: float | None = None
    seconds: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)

    def add(self, run: WholeProcess, parts: dict[str, float] | None = None) -> None:
        """Counts a process."""
        self.seconds.append(run.seconds)
        self.cpu_s.append(run.cpu_s)
        self.peak_bytes.append(run.peak_bytes)
        for part, seconds in (parts or {}).items():
            self.parts.setdefault(part, []).append(seconds)

    def median_s(self) -> float:
        """Of the whole process."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class ColdStart:
    """What was measured of a model: processes that find weights kept, that pack them, and those of a peer."""

    model: str
    file_bytes: int
    n_threads: int
    starts: list[Start]

    def as_json(self) -> dict[str, Any]:
        """Every sample."""
        return {"schema": SCHEMA, **asdict(self)}


def measure(
    path: str,
    prompt: str,
    *,
    n_threads: int,
    n_runs: int,
    peer_python: str | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> ColdStart:
    """Runs the processes in turns, after one of each that is not counted: it brings files into memory.

    Raises RuntimeError where one fails.
    """
    arguments = [path, str(n_threads), prompt]
    kinds: list[tuple[str, Callable[[], tuple[WholeProcess, dict[str, float] | None]]]] = [
        ("packed weights kept", lambda: _marked(arguments, keeps=True)),
        ("packed anew", lambda: _marked(arguments, keeps=False)),
    ]
    if peer_python is not None:
        for contender, code in FIRST_TOKEN.items():
            if contender.engine != "lanner":
                title = f"{contender.engine}, {contender.variant}"
                kinds.append((title, lambda code=code: (run_whole(peer_python, code, arguments), None)))  # type: ignore[misc]
    starts = []
    for title, run in kinds:
        tell(f"{title}, first run")
        first, parts = run()
        starts.append(Start(title, first.seconds, parts["close"] if parts else None))
    for index in range(n_runs):
        tell(f"run {index + 1} of {n_runs}")
        for start, (_, run) in zip(starts, kinds, strict=True):
            start.add(*run())
    return ColdStart(path, os.path.getsize(path), n_threads, starts)


def _marked(arguments: Sequence[str], *, keeps: bool) -> tuple[WholeProcess, dict[str, float]]:
    """A process, and the seconds of its parts, which together are its own."""
    code = f"import os; os.environ['LANNER_KEEP_PACKED'] = '{int(keeps)}'\n{MARKED}"
    bare = run_whole(sys.executable, "print(0)", [])
    run = run_whole(sys.executable, code, arguments)
    marks = [mark.split("=") for mark in run.output.split()]
    times = [(name.replace("_", " "), float(at)) for name, at in marks]
    parts = dict.fromkeys(PARTS, 0.0)
    for (_, before), (name, at) in pairwise(times):
        parts[name] += at - before
    parts["Python"] = bare.seconds
    parts["exit"] = max(0.0, run.seconds - bare.seconds - (times[-1][1] - times[0][1]))
    return run, parts
