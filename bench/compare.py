"""Lanner against llama.cpp on the same file, with the same number of threads, alternating in one run.

    python bench/compare.py --model smollm2 --threads 2 --table

Each engine is a process of its own and only one computes at a time. A round runs every engine once, in an
order that moves from round to round; a ratio is the median over rounds of two neighbouring measurements, so
that a machine which slows down for a while slows both. llama.cpp runs with flash attention on and off; the
better of the two counts. It is looked for under --peer-python, by default in this interpreter, else in
`.venv-peer` beside the sources (`make bench-peers` builds it there for the instruction set of this machine).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from contextlib import ExitStack, closing
from pathlib import Path

from _measure import LoadedModels, Rounds, first_token
from _processes import Worker, run_whole
from _report import Comparison, as_json, as_markdown, as_text

ROOT = Path(__file__).resolve().parent.parent
ROWS = ("prefill", "decode", "context", "parallel", "process")
PREFILL_TOKENS = (512, 32)
DECODE_TOKENS = 64

# Asked of a child: whatever this process imports would count in the memory of the processes that it measures.
RESOLVE = """
import json, sys
from lanner import catalog
from lanner._threads import default_threads
try:
    answer = [str(catalog.resolve(sys.argv[1], download=True)), default_threads()[0]]
except (OSError, ValueError, catalog.PullError) as error:
    answer = [None, str(error)]
print(json.dumps(answer))
"""


def main() -> None:
    """Measure, then print."""
    options = parse_options()
    text = (ROOT / "bench" / "prompt.txt").read_text(encoding="utf-8")
    short = "".join(text.partition(".")[:2])
    pythons = {"lanner": sys.executable, "llama.cpp": options.peer_python}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(closing(Worker(pythons[name], name))) for name in pythons}
        comparison = load(workers, options)
        rounds = Rounds(comparison, options.runs, options.patience)
        ids, n_short = tokenize(workers, comparison, text, short)
        loaded = LoadedModels(rounds, workers, ids)
        if "prefill" in options.rows:
            for n_tokens in PREFILL_TOKENS:
                loaded.prefill(n_tokens)
        if "decode" in options.rows:
            loaded.decode(DECODE_TOKENS)
        if "context" in options.rows:
            loaded.decode(DECODE_TOKENS, options.context)
        if "parallel" in options.rows:
            loaded.parallel(options.parallel, DECODE_TOKENS)
        # Others can only slow a probe down: the better of two counts.
        again = workers["lanner"].call("limits", n_threads=options.threads)
        comparison.limits = {name: max(limit, again[name]) for name, limit in comparison.limits.items()}
    if "process" in options.rows:  # after the workers: their memory and caches are out of the way
        first_token(rounds, pythons, short, n_short)
    print(as_markdown(comparison) if options.table else as_text(comparison))
    if options.json:
        Path(options.json).write_text(json.dumps(as_json(comparison), indent=1) + "\n", encoding="utf-8")


def load(workers: dict[str, Worker], options: argparse.Namespace) -> Comparison:
    """Load both engines and learn the limits of the machine."""
    n_positions = max(*PREFILL_TOKENS, options.context if "context" in options.rows else 0) + DECODE_TOKENS + 1
    lanner = workers["lanner"]
    limits = lanner.call("limits", n_threads=options.threads)
    costs = lanner.call("costs", path=options.model)
    sizes = {"n_threads": options.threads, "n_positions": n_positions}
    engines = {name: w.call("load", engine=name, path=options.model, **sizes) for name, w in workers.items()}
    return Comparison(options.model, options.threads, engines, limits, costs)


def tokenize(
    workers: dict[str, Worker], comparison: Comparison, text: str, short: str
) -> tuple[list[int], int]:
    """Ids of the text for both engines, and how many the short prompt has."""
    ids = {name: worker.call("tokenize", text=text) for name, worker in workers.items()}
    if ids["lanner"] != ids["llama.cpp"]:
        comparison.notes.append("the tokenizers disagree on the text; both engines get the ids of Lanner's")
    return ids["lanner"], len(workers["lanner"].call("tokenize", text=short))


def parse_options() -> argparse.Namespace:
    """The command line, with the model, the threads and the peer's interpreter found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", default="smollm2", help="GGUF file, or a name in the catalogue")
    parser.add_argument("--threads", type=count, help="threads of both engines; by default what suits Lanner")
    parser.add_argument("--runs", type=count, default=5, help="rounds of each row")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=["prefill", "decode", "process"])
    parser.add_argument("--context", type=count, metavar="N", help="add a row: decode behind N tokens")
    parser.add_argument(
        "--parallel", type=count, metavar="N", help="add a row: N callers decode at the same time"
    )
    parser.add_argument("--peer-python", metavar="PATH", help="interpreter that has llama_cpp")
    parser.add_argument(
        "--patience",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long a row waits, and repeats rounds, for other programs to leave the machine alone",
    )
    parser.add_argument("--table", action="store_true", help="print the table in Markdown")
    parser.add_argument("--json", metavar="FILE", help="write every sample too")
    options = parser.parse_args()
    if options.context is not None:
        options.rows = [*options.rows, "context"]
    if options.parallel is not None:
        options.rows = [*options.rows, "parallel"]
    options.context, options.parallel = options.context or 4096, options.parallel or 8
    try:
        options.model, n_threads = resolve(options.model)
        options.peer_python = options.peer_python or find_peer()
    except (OSError, ValueError) as error:
        parser.error(str(error))
    options.threads = options.threads or n_threads
    return options


def count(given: str) -> int:
    """A positive integer of the command line."""
    if int(given) < 1:
        raise argparse.ArgumentTypeError(f"{given} is not positive")
    return int(given)


def resolve(model: str) -> tuple[str, int]:
    """The path of the model, and the number of threads that suits this machine."""
    path, answer = json.loads(run_whole(sys.executable, RESOLVE, [model]).output)
    if path is None:
        raise ValueError(answer)
    return path, answer


def find_peer() -> str:
    """An interpreter that has llama_cpp."""
    if importlib.util.find_spec("llama_cpp"):
        return sys.executable
    for name in ("bin/python", "Scripts/python.exe"):
        if (python := ROOT / ".venv-peer" / name).exists():
            return str(python)
    raise FileNotFoundError("llama_cpp is not installed here: give --peer-python, or run make bench-peers")


if __name__ == "__main__":
    main()
