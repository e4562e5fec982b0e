"""pytest-benchmark over bench_ops.py, once for every number of threads; further arguments go to pytest.

    python bench/run.py --threads 1 --threads 2 -k softmax

Each number has a process of its own, since NumPy's BLAS reads its threads and kernels from the environment
when it is imported. Results go to bench/results/ops-N.json, in the form of `lanner bench ops --json`, and to
.benchmarks for `pytest-benchmark compare`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from lanner.bench.command import default_counts
from lanner.bench.machine import environment

FOLDER = Path(__file__).parent
OPTIONS = ["--benchmark-enable", "--benchmark-only", "--benchmark-autosave", "--benchmark-sort=name", "-q",
           "--benchmark-columns=median,iqr,rounds,iterations"]  # fmt: skip


def main() -> int:
    """The first status that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--threads", type=int, action="append", help="default: 1, and what the machine grants"
    )
    parser.add_argument("--only", metavar="FILE", default="bench_ops.py", help="another file of this folder")
    args, rest = parser.parse_known_args()
    for n_threads in args.threads or default_counts():
        env = environment(n_threads) | {"LANNER_BENCH_THREADS": str(n_threads)}
        command = [sys.executable, "-m", "pytest", str(FOLDER / args.only), *OPTIONS, *rest]
        if status := subprocess.run(command, env=env, cwd=FOLDER.parent).returncode:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
