"""What make cuda-check and the command line say on a machine without a GPU."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

import wheelhouse as toy
from lanner import catalog, cli

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


def test_nothing_is_pulled_for_a_gpu_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in toy.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(catalog, "MODELS", (toy.toy_entry(),))
    monkeypatch.setenv("LANNER_CUDA_LIBRARY", str(tmp_path / "none.so"))
    assert cli.main(["run", "toy", "hi", "--device", "cuda"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("lanner run: LANNER_CUDA_LIBRARY is ")
    assert not (tmp_path / "cache/models").exists()
