"""The rounds of a comparison: who runs when, what is timed, and what else the machine did meanwhile."""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from _engines import FIRST_TOKEN
from _processes import Worker, busy_s, run_whole, wait_until_quiet
from _report import LANNER, Comparison, Contender, Row

SETTLE_S = 0.05
"""Pause between two measurements: OpenMP's threads spin for milliseconds after their last parallel region."""

IDLE_SHARE = 0.02
"""Share of a core that an idle engine may burn before it is reported."""

OTHERS_SHARE = 0.05
"""Share of the machine that other programs may take in a round; the clock that tells ticks every 10 ms."""


class Turn(NamedTuple):
    """What a contender's turn gave: a sample for each row, and the processor time that it accounts for."""

    values: tuple[float, ...]
    cpu_s: float


@dataclass
class Rounds:
    """Lets contenders take turns, in an order that moves by one from round to round.

    `n_rounds` count; one more comes first and warms everybody up. A round in which other programs took more
    than `OTHERS_SHARE` of the machine is played again, until `patience_s` per row are over: one engine may
    suffer more from a disturbance than the other, and this is not what is measured.
    """

    comparison: Comparison
    n_rounds: int
    patience_s: float

    def play(
        self, rows: list[Row], contenders: list[Contender], turn: Callable[[Contender, int], Turn]
    ) -> None:
        """Add a sample per round to each row; `turn` gets the contender and the number of the round."""
        print(f"{rows[0].title} ...", file=sys.stderr, flush=True)
        deadline = time.monotonic() + self.patience_s
        disturbed: list[float] = []
        n_counted = -1  # the warm-up
        for index in itertools.count():
            wait_until_quiet(deadline)
            samples, others = self._round(index, contenders, turn)
            is_quiet = others <= OTHERS_SHARE
            if not is_quiet and time.monotonic() < deadline:
                continue
            if n_counted >= 0:
                disturbed += [] if is_quiet else [others]
                for contender, values in samples.items():
                    for row, value in zip(rows, values, strict=True):
                        row.add(contender, value)
            n_counted += 1
            if n_counted == self.n_rounds:
                break
        if disturbed:
            self.comparison.notes.append(
                f"{rows[0].title}: in {len(disturbed)} of {self.n_rounds} rounds other programs took "
                f"{statistics.mean(disturbed):.0%} of the machine"
            )
        self.comparison.rows += rows

    def _round(
        self, index: int, contenders: list[Contender], turn: Callable[[Contender, int], Turn]
    ) -> tuple[dict[Contender, tuple[float, ...]], float]:
        """The samples of everybody's turn, and the share of the machine that others took meanwhile."""
        samples, others_s, wall_s = {}, 0.0, 0.0
        first = index % len(contenders)
        for contender in contenders[first:] + contenders[:first]:
            time.sleep(SETTLE_S)
            start, before = time.perf_counter(), busy_s()
            samples[contender], cpu_s = turn(contender, index)
            others_s += busy_s() - before - cpu_s
            wall_s += time.perf_counter() - start
        return samples, others_s / (wall_s * (os.cpu_count() or 1))


class LoadedModels:
    """Measures of models that are loaded and warm, one worker per engine."""

    def __init__(self, rounds: Rounds, workers: Mapping[str, Worker], ids: list[int]) -> None:
        self._rounds, self._workers, self._ids = rounds, workers, ids
        self._comparison = rounds.comparison
        self._contenders = [
            Contender(name, variant)
            for name, engine in self._comparison.engines.items()
            for variant in engine["variants"]
        ]

    def prefill(self, n_tokens: int) -> None:
        """A row of tokens per second of a prompt."""
        costs = self._comparison.costs
        once = costs["head_macs"] + costs["pair_macs"] * n_tokens * (n_tokens + 1) / 2
        macs = costs["layer_macs"] + once / n_tokens
        row = Row(f"prefill, {n_tokens} tokens", "tokens/s", higher_is_better=True, n_macs=macs)
        self._play(row, n_tokens, "prefill", {"ids": n_tokens})

    def decode(self, n_tokens: int, n_context: int = 0) -> None:
        """A row of tokens per second, one after the other, behind a prompt that is not timed."""
        behind = f" behind {n_context}" if n_context else ""
        row = Row(
            f"decode, {n_tokens} tokens{behind}",
            "tokens/s",
            higher_is_better=True,
            n_bytes=self._comparison.costs["weight_bytes"],
        )
        sizes = {"ids": max(1, n_context), "n_tokens": n_tokens}
        self._play(row, n_tokens, "decode", sizes, is_new=False)

    def parallel(self, n_seqs: int, n_tokens: int) -> None:
        """A row of tokens per second of all sequences together, decoding at the same time."""
        macs = self._comparison.costs["layer_macs"] + self._comparison.costs["head_macs"]
        row = Row(f"decode, {n_seqs} x {n_tokens} tokens", "tokens/s", higher_is_better=True, n_macs=macs)
        self._play(row, n_seqs * n_tokens, "parallel", {"ids": n_seqs, "n_tokens": n_tokens})

    def _play(
        self, row: Row, n_tokens: int, op: str, sizes: dict[str, int], *, is_new: bool = True
    ) -> None:
        """Rounds of one operation; where its prompt is timed (`is_new`), no two begin alike."""
        tokens: dict[tuple[Contender, int], list[int]] = {}
        idle_s = dict.fromkeys(self._workers, 0.0)
        idle_cpu_s = dict.fromkeys(self._workers, 0.0)

        def turn(contender: Contender, index: int) -> Turn:
            worker = self._workers[contender.engine]
            resting = {name: w for name, w in self._workers.items() if w is not worker}
            for other in resting.values():
                other.spent_cpu_s()
            cpu_s, start = worker.cpu_s, time.perf_counter()
            arguments = sizes | {"ids": rotated(self._ids, sizes["ids"], index if is_new else 0)}
            seconds, tokens[contender, index] = worker.call(op, variant=contender.variant, **arguments)
            wall = time.perf_counter() - start
            rested = {name: other.spent_cpu_s() for name, other in resting.items()}
            for name, spent in rested.items():
                idle_s[name] += wall
                idle_cpu_s[name] += spent
            return Turn((n_tokens / seconds,), worker.cpu_s - cpu_s + sum(rested.values()))

        self._rounds.play([row], self._contenders, turn)
        for name, spent in idle_cpu_s.items():
            if spent > IDLE_SHARE * idle_s[name]:
                share = spent / idle_s[name]
                self._comparison.notes.append(f"{row.title}: {name} burnt {share:.0%} of a core at rest")
        self._check_same_work(row, tokens)

    def _check_same_work(self, row: Row, tokens: dict[tuple[Contender, int], list[int]]) -> None:
        """Two engines choose the same next token nearly always; else they did not do the same work."""
        pairs = [(ids[0], tokens[LANNER, index][0]) for (who, index), ids in tokens.items() if who != LANNER]
        n_equal = sum(theirs == ours for theirs, ours in pairs)
        if n_equal < len(pairs) / 2:
            self._comparison.notes.append(
                f"{row.title}: the engines chose the same first token {n_equal} times of {len(pairs)}"
            )


def first_token(rounds: Rounds, pythons: Mapping[str, str], prompt: str, n_prompt_tokens: int) -> None:
    """Rows of the time and of the peak memory of processes that import, open the file and print one token."""
    seconds = Row(f"first token of {n_prompt_tokens}, whole process", "s", higher_is_better=False)
    memory = Row("peak memory of that process", "MB", higher_is_better=False)
    arguments = [rounds.comparison.model, str(rounds.comparison.n_threads), prompt]

    def turn(contender: Contender, index: int) -> Turn:
        run = run_whole(pythons[contender.engine], FIRST_TOKEN[contender], arguments)
        return Turn((run.seconds, run.peak_bytes / 1e6), run.cpu_s)

    rounds.play([seconds, memory], list(FIRST_TOKEN), turn)


def rotated(ids: list[int], n_tokens: int, by: int) -> list[int]:
    """`n_tokens` ids of a repeated text from another place each time: no two prompts share a prefix."""
    by %= len(ids)
    return list(itertools.islice(itertools.cycle(ids), by, by + n_tokens))
