"""Decoding on a machine that others use too: Lanner beside processes that never rest.

    python bench/oversubscribed.py --model smollm2 --threads 1,2,4 --spinners 0,1,2

The fair share of a run is the speed of the same threads alone on a quiet machine, times the part of its
processors that it was given: processor time over wall-clock time x min(threads, processors). Whoever wastes
what he is given, spinning or waiting for a thread that does not run, stays below it. Settings take turns, a
round after the other; medians count. `--peer-python` adds llama.cpp, as in `lanner bench model`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field

from lanner.bench.engine_process import EngineProcess
from lanner.bench.rounds import busy_s, wait_until_quiet

N_PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
SETTLE_S = 0.3
"""Pause in which spinners find their processors."""

DECODE_TOKENS = 32
FIRST_ID = 1
"""What is decoded does not matter here, and one id is a prompt of one step."""


@dataclass
class Setting:
    """One engine with some threads beside some spinners, and what it did in every round."""

    engine: str
    n_threads: int
    n_spinners: int
    rates: list[float] = field(default_factory=list)  # tokens per second
    cpus: list[float] = field(default_factory=list)  # processors that it had
    others: list[float] = field(default_factory=list)  # processors that neither it nor the spinners had

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    @property
    def share(self) -> float:
        """Part of its processors that it had."""
        return statistics.median(self.cpus) / min(self.n_threads, N_PROCESSORS)


def main() -> None:
    """Measure, then print."""
    options = parse_options()
    settings = [
        Setting(engine, n_threads, n_spinners)
        for engine in ("lanner", "llama.cpp")[: 2 if options.peer_python else 1]
        for n_spinners in options.spinners
        for n_threads in options.threads
    ]
    pythons = {"lanner": sys.executable, "llama.cpp": options.peer_python}
    with ExitStack() as stack:
        workers: dict[tuple[str, int], EngineProcess] = {}
        for key in dict.fromkeys((s.engine, s.n_threads) for s in settings):
            workers[key] = stack.enter_context(closing(EngineProcess(pythons[key[0]], key[0])))
            workers[key].call(
                "load", engine=key[0], path=options.model, n_threads=key[1], n_positions=DECODE_TOKENS + 2
            )
        for _ in range(options.rounds):
            for setting in settings:
                run(setting, workers[setting.engine, setting.n_threads], options)
    print(as_table(settings))


def run(setting: Setting, worker: EngineProcess, options: argparse.Namespace) -> None:
    """Add a round to a setting."""
    wait_until_quiet(time.monotonic() + options.patience)
    with spinners(setting.n_spinners) as spinning:
        worker.call("ping")
        cpu_s, start, n_tokens = worker.cpu_s, time.perf_counter(), 0
        machine_s, spun_s = busy_s(), sum(map(process_s, spinning))
        while time.perf_counter() - start < options.seconds:
            worker.call(
                "decode", ids=[FIRST_ID], n_tokens=DECODE_TOKENS, variant=options.variant[setting.engine]
            )
            n_tokens += DECODE_TOKENS
        wall_s, own_s = time.perf_counter() - start, worker.cpu_s - cpu_s
        others_s = busy_s() - machine_s - own_s - (sum(map(process_s, spinning)) - spun_s)
    setting.rates.append(n_tokens / wall_s)
    setting.cpus.append(own_s / wall_s)
    setting.others.append(max(0, others_s / wall_s))


@contextmanager
def spinners(n: int) -> Iterator[list[int]]:
    """Processes that never rest, by their ids."""
    processes = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(n)]
    try:
        time.sleep(SETTLE_S if n else 0)
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def process_s(pid: int) -> float:
    """Processor seconds of a process; 0 where the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def as_table(settings: list[Setting]) -> str:
    """A line per setting; the fair share needs a setting without spinners and with as many threads."""
    alone = {(s.engine, min(s.n_threads, N_PROCESSORS)): s.rate for s in settings[::-1] if not s.n_spinners}
    lines = [
        "| engine | threads | spinners | tokens/s | processor share | of the fair share | other processes |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for s in settings:
        single = alone.get((s.engine, min(s.n_threads, N_PROCESSORS)))
        fair = f"{s.rate / (single * s.share):.0%}" if single else ""
        lines.append(
            f"| {s.engine} | {s.n_threads} | {s.n_spinners} | {s.rate:.1f} | {s.share:.0%} | {fair} "
            f"| {statistics.median(s.others) / N_PROCESSORS:.0%} |"
        )
    return "\n".join(lines)


def parse_options() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    add = parser.add_argument
    add("--model", default="smollm2", help="name of the catalogue or file")
    add("--threads", type=numbers, default=[1, N_PROCESSORS, 2 * N_PROCESSORS])
    add("--spinners", type=numbers, default=[0, 1, N_PROCESSORS])
    add("--seconds", type=float, default=2, help="of a measurement")
    add("--rounds", type=int, default=5)
    add("--patience", type=float, default=5, help="seconds to wait before each for a quiet machine")
    add("--peer-python", default="", help="interpreter with llama-cpp-python")
    options = parser.parse_args()
    options.variant = {"lanner": "", "llama.cpp": "flash attention on"}
    return options


if __name__ == "__main__":
    main()
