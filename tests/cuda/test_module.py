"""The build of lanner._cuda: what it says where nvcc does not work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pybind11

import toolkit


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
