"""The rows of a model's table, each with what is asked of every engine for it."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping

from lanner.bench.engine_process import EngineProcess
from lanner.bench.first_token import FIRST_TOKEN
from lanner.bench.model_results import LANNER, Contender, Row
from lanner.bench.rounds import Rounds, Turn
from lanner.bench.whole_process import run_whole

IDLE_SHARE = 0.02
"""Share of a core that an idle engine may burn before it is reported."""


class LoadedModels:
    """Measures of models that are loaded and warm, one process per engine."""

    def __init__(self, rounds: Rounds, engines: Mapping[str, EngineProcess], ids: list[int]) -> None:
        self._rounds, self._engines, self._ids = rounds, engines, ids
        self._run, self._costs = rounds.run, rounds.run.costs
        self._contenders = [
            Contender(name, variant)
            for name, engine in self._run.engines.items()
            for variant in engine["variants"]
        ]

    def prefill(self, n_tokens: int) -> None:
        """A row of tokens per second of a prompt."""
        macs = self._costs.prefill_macs(n_tokens) / n_tokens
        row = Row(f"prefill, {n_tokens} tokens", "tokens/s", higher_is_better=True, n_macs=macs)
        self._play(row, n_tokens, "prefill", {"ids": n_tokens})

    def decode(self, n_tokens: int, n_context: int = 0) -> None:
        """A row of tokens per second, one after the other, behind a prompt that is not timed."""
        title = f"decode, {n_tokens} tokens" + (f" behind {n_context}" if n_context else "")
        seconds = self._seconds_of_prompts(n_context)
        if seconds > self._rounds.row_s:
            self._run.notes.append(
                f"{title}: left out, the prompts would take about {seconds:.0f} s; --row-seconds allows it"
            )
            return
        n_bytes = self._costs.decode_bytes(n_context + n_tokens / 2)
        row = Row(title, "tokens/s", higher_is_better=True, n_bytes=n_bytes)
        sizes = {"ids": max(1, n_context), "n_tokens": n_tokens}
        self._play(row, n_tokens, "decode", sizes, is_new=False)

    def _seconds_of_prompts(self, n_tokens: int) -> float:
        """What every contender's prompt takes together, as far as rows of prompts tell."""
        rates: dict[Contender, float] = {}
        for row in self._run.rows:
            if row.title.startswith("prefill"):
                for contender, values in row.samples.items():
                    rates[contender] = max(rates.get(contender, 0.0), statistics.median(values))
        return sum(n_tokens / rate for rate in rates.values())

    def parallel(self, n_seqs: int, n_tokens: int) -> None:
        """A row of tokens per second of all sequences together, decoding at the same time."""
        row = Row(
            f"decode, {n_seqs} x {n_tokens} tokens",
            "tokens/s",
            higher_is_better=True,
            n_macs=self._costs.layer_macs + self._costs.head_macs,
            n_bytes=self._costs.weight_bytes / n_seqs,  # a step reads them once for all
        )
        self._play(row, n_seqs * n_tokens, "parallel", {"ids": n_seqs, "n_tokens": n_tokens})

    def _play(self, row: Row, n_tokens: int, op: str, sizes: dict[str, int], *, is_new: bool = True) -> None:
        """Rounds of one operation; where its prompt is timed (`is_new`), no two begin alike."""
        tokens: dict[tuple[Contender, int], list[int]] = {}
        idle_s = dict.fromkeys(self._engines, 0.0)
        idle_cpu_s = dict.fromkeys(self._engines, 0.0)

        def turn(contender: Contender, index: int) -> Turn:
            engine = self._engines[contender.engine]
            resting = {name: other for name, other in self._engines.items() if other is not engine}
            for other in resting.values():
                other.spent_cpu_s()
            cpu_s, start = engine.cpu_s, time.perf_counter()
            arguments = sizes | {"ids": rotated(self._ids, sizes["ids"], index if is_new else 0)}
            seconds, tokens[contender, index] = engine.call(op, variant=contender.variant, **arguments)
            wall = time.perf_counter() - start
            rested = {name: other.spent_cpu_s() for name, other in resting.items()}
            for name, spent in rested.items():
                idle_s[name] += wall
                idle_cpu_s[name] += spent
            return Turn((n_tokens / seconds,), engine.cpu_s - cpu_s + sum(rested.values()))

        self._rounds.play([row], self._contenders, turn)
        for name, spent in idle_cpu_s.items():
            if spent > IDLE_SHARE * idle_s[name]:
                share = spent / idle_s[name]
                self._run.notes.append(f"{row.title}: {name} burnt {share:.0%} of a core at rest")
        self._check_same_work(row, tokens)

    def _check_same_work(self, row: Row, tokens: dict[tuple[Contender, int], list[int]]) -> None:
        """Two engines choose the same next token nearly always; else they did not do the same work."""
        pairs = [(ids[0], tokens[LANNER, index][0]) for (who, index), ids in tokens.items() if who != LANNER]
        n_equal = sum(theirs == ours for theirs, ours in pairs)
        if n_equal < len(pairs) / 2:
            self._run.notes.append(
                f"{row.title}: the engines chose the same first token {n_equal} times of {len(pairs)}"
            )


def first_token(rounds: Rounds, pythons: Mapping[str, str], prompt: str, n_prompt_tokens: int) -> None:
    """Rows of the time and of the peak memory of processes that import, open the file and print one token.

    `pythons` has the interpreter of each engine.
    """
    seconds = Row(f"first token of {n_prompt_tokens}, whole process", "s", higher_is_better=False)
    memory = Row("peak memory of that process", "MB", higher_is_better=False)
    arguments = [rounds.run.model, str(rounds.run.n_threads), prompt]

    def turn(contender: Contender, index: int) -> Turn:
        run = run_whole(pythons[contender.engine], FIRST_TOKEN[contender], arguments)
        return Turn((run.seconds, run.peak_bytes / 1e6), run.cpu_s)

    contenders = [contender for contender in FIRST_TOKEN if contender.engine in pythons]
    rounds.play([seconds, memory], contenders, turn)


def rotated(ids: list[int], n_tokens: int, by: int) -> list[int]:
    """`n_tokens` ids of a repeated text from another place each time: no two prompts share a prefix."""
    by %= len(ids)
    return list(itertools.islice(itertools.cycle(ids), by, by + n_tokens))
