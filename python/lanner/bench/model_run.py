"""The measurement of one model: Lanner alone, or in turns with a peer on the same file.

Each engine is a process of its own and only one computes at a time. A round runs every engine once; a ratio
is the median over rounds of two neighbouring measurements, so that a machine which slows down for a while
slows both. A peer runs with each of its settings (llama.cpp: flash attention on and off); the better counts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from lanner._bench_arguments import ROWS
from lanner._machine import cpu_name
from lanner.bench.engine_process import EngineProcess
from lanner.bench.machine import Limits
from lanner.bench.model_costs import model_costs
from lanner.bench.model_results import ModelRun
from lanner.bench.model_rows import LoadedModels, first_token
from lanner.bench.rounds import Rounds

PREFILL_TOKENS, SHORT_TOKENS, DECODE_TOKENS = 512, 32, 64
PROMPT = Path(__file__).with_name("prompt.txt")


@dataclass(frozen=True)
class Plan:
    """What is measured of a model.

    `n_context` positions are behind the row "context", `n_parallel` sequences are in the row "parallel";
    `n_runs`, `patience_s` and `row_s` are those of Rounds. `peer_python` is an interpreter with llama_cpp, or
    None to measure Lanner alone.
    """

    n_threads: int
    n_runs: int = 5
    rows: tuple[str, ...] = ROWS
    n_context: int = 4096
    n_parallel: int = 8
    patience_s: float = 5.0
    row_s: float = 120.0
    peer_python: str | None = None

    @property
    def pythons(self) -> dict[str, str]:
        """The interpreter of each engine."""
        peer = {"llama.cpp": self.peer_python} if self.peer_python else {}
        return {"lanner": sys.executable} | peer

    def n_positions(self, row: str) -> int:
        """Context that a row needs."""
        behind = {"prefill": PREFILL_TOKENS, "short": SHORT_TOKENS, "context": self.n_context}
        return behind.get(row, 1) + (DECODE_TOKENS if row in ("decode", "context", "parallel") else 0) + 1


def measure_model(path: str, plan: Plan, tell: Callable[[str], None] = lambda text: None) -> ModelRun:
    """Measure a file; `tell` hears the title of each row before it begins.

    Rows that need more context than the model has are left out, with a note.

    Raises OSError, ModelFileError and UnsupportedModelError as loading the model, EngineError where an engine
    fails.
    """
    run = ModelRun(str(path), cpu_name(), plan.n_threads, model_costs(path))
    rows = tuple(_that_fit(run, plan))
    limits = Limits(plan.n_threads)
    rounds = Rounds(run, plan.n_runs, plan.patience_s, plan.row_s, tell)
    tell("loading")
    with ExitStack() as stack:
        engines = {
            name: stack.enter_context(closing(EngineProcess(python, name)))
            for name, python in plan.pythons.items()
        }
        n_short = measure_loaded(rounds, engines, plan, rows, limits)
    if "process" in rows:  # after the others: their memory and caches are out of the way
        first_token(rounds, plan.pythons, short_prompt(), n_short)
    probe(run, limits)
    return run


def _that_fit(run: ModelRun, plan: Plan) -> Iterator[str]:
    for row in ROWS:
        if row not in plan.rows:
            continue
        if (needed := plan.n_positions(row)) <= run.costs.context_length:
            yield row
        else:
            n = run.costs.context_length
            run.notes.append(f"{row}: left out, it takes {needed} positions and the model has {n}")


def measure_loaded(
    rounds: Rounds, engines: Mapping[str, EngineProcess], plan: Plan, rows: tuple[str, ...], limits: Limits
) -> int:
    """The rows of loaded models, in their order. Returns the tokens of the short prompt."""
    run = rounds.run
    sizes = {"n_threads": plan.n_threads, "n_positions": max(map(plan.n_positions, rows), default=1)}
    run.engines = {
        name: engine.call("load", engine=engine.engine, path=run.model, **sizes)
        for name, engine in engines.items()
    }
    loaded = LoadedModels(rounds, engines, _ids(run, engines))
    measures: dict[str, Callable[[], None]] = {
        "prefill": lambda: loaded.prefill(PREFILL_TOKENS),
        "short": lambda: loaded.prefill(SHORT_TOKENS),
        "decode": lambda: loaded.decode(DECODE_TOKENS),
        "context": lambda: loaded.decode(DECODE_TOKENS, plan.n_context),
        "parallel": lambda: loaded.parallel(plan.n_parallel, DECODE_TOKENS),
    }
    for row in rows:
        probe(run, limits)
        if row in measures:
            measures[row]()
    return len(engines["lanner"].call("tokenize", text=short_prompt()))


def probe(run: ModelRun, limits: Limits) -> None:
    """Measure the limits once more: others can only slow a probe down, so the best counts."""
    limits.probe(("read", "fma"))
    run.limits = {str(name): rate for name, rate in limits.best().items()}


def _ids(run: ModelRun, engines: Mapping[str, EngineProcess]) -> list[int]:
    """Ids of the text for all engines."""
    text = PROMPT.read_text(encoding="utf-8")
    ids: dict[str, list[int]] = {name: engine.call("tokenize", text=text) for name, engine in engines.items()}
    if any(other != ids["lanner"] for other in ids.values()):
        run.notes.append("the tokenizers disagree on the text; all engines get the ids of Lanner's")
    return ids["lanner"]


def short_prompt() -> str:
    """The first sentence of the text."""
    return "".join(PROMPT.read_text(encoding="utf-8").partition(".")[:2])
