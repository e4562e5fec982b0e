"""The instruction set is the one that was asked for.

The operations are tested on whatever set runs; every set of a machine is covered by

    for isa in baseline avx2; do LANNER_ISA=$isa pytest tests/ops tests/test_program.py tests/test_isa.py
    done
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lanner import _core


def child(isa: str, code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"LANNER_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


def test_the_forced_instruction_set_runs() -> None:
    if forced := os.environ.get("LANNER_ISA"):
        assert _core.isa() == forced
    else:
        assert _core.isa() in _core.runnable_isas()


def test_the_baseline_runs_everywhere() -> None:
    assert "baseline" in _core.runnable_isas()
    assert child("baseline", "from lanner import _core; print(_core.isa())").stdout == "baseline\n"


@pytest.mark.parametrize("isa", _core.runnable_isas())
def test_each_runnable_set_can_be_forced_or_was_not_built(isa: str) -> None:
    done = child(isa, "from lanner import _core; print(_core.isa())")
    assert (
        done.stdout == f"{isa}\n" or f"LANNER_ISA is '{isa}', this machine and build can run: " in done.stderr
    )


def test_an_empty_name_forces_nothing() -> None:
    assert child("", "from lanner import _core; print(_core.isa())").stdout.strip() in _core.runnable_isas()


@pytest.mark.parametrize("isa", ["avx9", "AVX2", "baseline ", "default"])
def test_an_unknown_name_fails_at_import(isa: str) -> None:
    done = child(isa, "from lanner import _core")
    assert done.returncode == 1
    assert f"ImportError: LANNER_ISA is '{isa}', this machine and build can run: " in done.stderr
    assert "baseline" in done.stderr


def test_exact_operations_agree_between_sets() -> None:
    """Packing, codes and tables have one right answer each, whatever computes them."""
    code = """
import hashlib, sys
sys.path.insert(0, "tests"), sys.path.insert(0, "tests/ops")
import numpy as np
from harness import make_weight, quantize_rows
from cases import EMBED
digest = hashlib.sha256()
x = np.random.default_rng(0).standard_normal((9, 640)).astype(np.float32)
for codes in quantize_rows(x, "int8", "int16").values():
    digest.update(codes.tobytes())
for case in EMBED:
    digest.update(make_weight(case).packed.unpack().tobytes())
print(digest.hexdigest())
"""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    code = f"import os; os.chdir({root!r})\n" + code
    answers = {isa: child(isa, code) for isa in _core.runnable_isas()}
    digests = {isa: done.stdout for isa, done in answers.items() if done.returncode == 0}
    assert "baseline" in digests
    assert len(set(digests.values())) == 1, digests
