"""Measures in a process of its own, whose environment NumPy and PyTorch read when they are imported.

    python -m lanner.bench.worker '{"n_threads": 2, "filters": ["softmax"], "quick": true}'

writes lines of JSON: {"case": name, "index": 0, "of": 3} before each case, at last {"run": {...}}, or
{"error": text}.
"""

from __future__ import annotations

import json
import os
import sys
import warnings

from lanner.bench.cases import selected
from lanner.bench.contenders import package
from lanner.bench.measure import QUICK, Effort, run_cases


def main() -> int:
    """Do what the first argument asks for."""
    # Libraries may write to descriptor 1; lines go to a copy of it that only this function knows.
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(**line: object) -> None:
        lines.write(json.dumps(line) + "\n")
        lines.flush()

    request = json.loads(sys.argv[1])
    try:
        cases = selected(tuple(request["filters"]))
        names = [case.name for case in cases]
        warnings.simplefilter("ignore")  # PyTorch's, about what it will remove
        run = run_cases(
            cases,
            request["n_threads"],
            QUICK if request["quick"] else Effort(),
            package("torch"),
            lambda case: say(case=case.name, index=names.index(case.name), of=len(names)),
        )
    except KeyboardInterrupt:
        return 130
    except (ValueError, ImportError, MemoryError) as error:
        say(error=str(error) or type(error).__name__)
        return 1
    say(run=run.as_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
