"""A program from its start to its end: seconds and peak memory of a process, as a script and as a function.

    python -I -S whole_process.py PYTHON -c CODE ARGUMENTS...

runs the command and prints a line of JSON with the fields of `WholeProcess`. The peak of a process counts
from whoever forked it; a script that imports the standard library alone is smaller than any engine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class WholeProcess:
    """Wall-clock and processor seconds, peak resident memory, exit status, first line of the output."""

    seconds: float
    cpu_s: float
    peak_bytes: int
    status: int
    output: str


def run_whole(python: str, code: str, arguments: Sequence[str]) -> WholeProcess:
    """`python -c code arguments...`, alone; RuntimeError where it fails or prints nothing."""
    launcher = [sys.executable, "-I", "-S", __file__]
    done = subprocess.run(
        [*launcher, python, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    run = WholeProcess(**json.loads(done.stdout))
    if run.status != 0 or not run.output:
        raise RuntimeError(f"{python} -c ... ended with status {run.status} and printed {run.output!r}")
    return run


def _run(command: Sequence[str]) -> WholeProcess:
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    output = process.stdout.readline()
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # KiB but on macOS
    return WholeProcess(
        seconds, usage.ru_utime + usage.ru_stime, peak_bytes, process.returncode, output.decode().strip()
    )


if __name__ == "__main__":
    print(json.dumps(asdict(_run(sys.argv[1:]))))
