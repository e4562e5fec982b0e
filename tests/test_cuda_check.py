"""make cuda-check on a machine without a GPU."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "bench/cuda_check.py"


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.mark.skipif(has_driver(), reason="there is a driver")
@pytest.mark.parametrize("arguments", [[], ["--probe"]])
def test_without_a_gpu_it_says_so(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr == "cuda-check: no NVIDIA driver was found: its library libcuda.so.1 is missing\n"
