"""The processes of a comparison: workers that hold a loaded engine, and programs that run once and end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("_worker.py")


class Worker:
    """An engine in a child process under an interpreter of its own; see _worker.py for the protocol."""

    def __init__(self, python: str, engine: str) -> None:
        self.engine = engine
        self._process = subprocess.Popen(
            [python, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        self.cpu_s = 0.0

    def call(self, op: str, **arguments: Any) -> Any:
        """The value of an operation; RuntimeError with what the worker says where it fails or dies."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"{self.engine}: {op}: the worker ended with status {self._process.wait()}")
        reply = json.loads(line)
        if "error" in reply:
            raise RuntimeError(f"{self.engine}: {op}: {reply['error']}")
        self.cpu_s = reply["cpu_s"]
        return reply["value"]

    def spent_cpu_s(self) -> float:
        """Processor time of the worker since its last reply."""
        before = self.cpu_s
        self.call("ping")
        return self.cpu_s - before

    def close(self) -> None:
        """End of input ends the worker."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


@dataclass(frozen=True)
class WholeProcess:
    """A program from start to end: wall-clock and processor seconds, peak resident memory, first line."""

    seconds: float
    cpu_s: float
    peak_bytes: int
    output: str


def run_whole(python: str, code: str, arguments: Sequence[str]) -> WholeProcess:
    """Run `python -c code arguments...` and account for it alone.

    The peak of a child starts at the size of whoever forked it, so the caller must be the smaller of the two:
    it imports nothing big.
    """
    start = time.perf_counter()
    process = subprocess.Popen([python, "-c", code, *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    output = process.stdout.readline()
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.stdout.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 or not output:
        raise RuntimeError(f"{python} -c ... ended with status {process.returncode} and printed {output!r}")
    cpu_s = usage.ru_utime + usage.ru_stime
    peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # KiB but on macOS
    return WholeProcess(seconds, cpu_s, peak_bytes, output.decode().strip())


def busy_s() -> float:
    """Processor seconds that this machine has spent, stolen ones included; 0 where it does not tell."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            fields = [int(field) for field in file.readline().split()[1:9]]
        user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def wait_until_quiet(deadline: float, threshold: float = 0.1, window_s: float = 0.2) -> None:
    """Wait until others use under `threshold` of one processor, or until `deadline` of time.monotonic()."""
    while time.monotonic() < deadline:
        before = busy_s()
        time.sleep(window_s)
        if busy_s() - before <= threshold * window_s + 0.01:  # the clock ticks every 10 ms
            return
