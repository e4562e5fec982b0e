"""lanner._cuda itself: what the GPU alone runs is compiled and linked, and says what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pybind11
import pytest

import toolkit
from on_device import ON_DEVICE

BUILD = toolkit.ROOT / "build/cuda/module"
CODE = "-gencode;arch=compute_80,code=compute_80"
"""PTX alone: no machine code, which takes most of the time."""

SCRIPT = """
import importlib.util, sys, lanner
spec = importlib.util.spec_from_file_location("_cuda", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.GRAPH_ROWS, module.ops.linear.__name__)
try:
    print("found", module.device_info()["name"])
except lanner.DeviceError as error:
    print(error)
"""


def cmake(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """CMake of this environment; its nvcc is found there too."""
    folders = [str(Path(sys.executable).parent), str(toolkit.tool("nvcc").parent), os.environ["PATH"]]
    environment = {**os.environ, "PATH": os.pathsep.join(folders), **variables}
    command = ["cmake", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def configure(build: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """The module by itself, from the CMake of the package's build."""
    places = [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    source = str(Path(__file__).parent / "module")
    return cmake("-G", "Ninja", "-S", source, "-B", str(build), *places, *settings)


@pytest.mark.skipif(ON_DEVICE, reason="the package that is tested has it")
def test_without_a_driver_the_module_says_so() -> None:
    made = configure(BUILD, "-DLANNER_CUDA=on", f"-DLANNER_CUDA_CODE={CODE}")
    assert made.returncode == 0, made.stdout + made.stderr
    made = cmake("--build", str(BUILD), "-j2")
    assert made.returncode == 0, made.stdout[-6000:] + made.stderr
    module = next(BUILD.glob("_cuda.*.so"))
    command = [sys.executable, "-c", SCRIPT, str(module)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0] == "32 linear"
    if said[1].startswith("found"):
        pytest.skip("there is a GPU")
    assert "driver" in said[1]


def test_a_compiler_that_nvcc_refuses_is_named(tmp_path: Path) -> None:
    """Without an nvcc that works the package is built for the CPU alone, unless it was asked for."""
    refusing = tmp_path / "nvcc"
    refusing.write_text(
        f'#!/bin/sh\ncase "$*" in *-ccbin*) echo "error: unsupported GNU version" >&2; exit 1;; esac\n'
        f'exec {toolkit.tool("nvcc")} "$@"\n'
    )
    refusing.chmod(0o755)
    reason = "compiles nothing with"
    made = configure(tmp_path / "auto", "-DLANNER_CUDA=auto", f"-DLANNER_NVCC={refusing}")
    assert made.returncode == 0 and f"Built without CUDA: {refusing} {reason}" in made.stdout
    assert "unsupported GNU version" in made.stdout
    made = configure(tmp_path / "on", "-DLANNER_CUDA=on", f"-DLANNER_NVCC={refusing}")
    assert made.returncode != 0 and reason in " ".join(made.stderr.split())
