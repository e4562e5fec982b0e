"""The kernels over the emulator as a Python module, built when a source has changed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import toolkit
from gates import Gate, gate_named
from ptx.interpreter import Module, as_callback
from sass import short_name

BUILD = toolkit.ROOT / "build/cuda/emulated"


@cache
def emulated() -> ModuleType:
    """_cuda_emulated, from the file that LANNER_CUDA_EMULATED names or built by CMake."""
    given = os.environ.get("LANNER_CUDA_EMULATED")
    if not given:
        commands = [
            ["cmake", "-G", "Ninja", "-S", str(toolkit.CSRC / "cuda"), "-B", str(BUILD),
             f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={_pybind11()}"],
            ["cmake", "--build", str(BUILD), "-j2"],
        ]  # fmt: skip
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        for command in commands:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
            )
            if done.returncode:
                raise RuntimeError(
                    f"{' '.join(command[:2])} failed:\n{done.stdout[-6000:]}{done.stderr[-2000:]}"
                )
        given = str(next(BUILD.glob("_cuda_emulated*.so")))
    return _load("_cuda_emulated", Path(given))


@cache
def planted() -> ModuleType:
    """_cuda_planted, the kernels of planted/, from the same build."""
    beside = Path(str(emulated().__file__)).parent / "planted"
    return _load("_cuda_planted", next(beside.glob("_cuda_planted*.so")))


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _pybind11() -> str:
    import pybind11

    return str(pybind11.get_cmake_dir())


@cache
def _gate(symbol: str) -> Gate | None:
    return gate_named(short_name(symbol))


class UnitsCallback:
    """Runs launches from PTX. A unit is compiled when a kernel of it is launched first."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.runs: dict[str, Any] = {}
        self.left = [unit for unit in toolkit.units() if not toolkit.is_sm90(unit)]

    def __call__(self, launch: dict[str, Any]) -> None:
        symbol = launch["symbol"]
        # The unit whose name is in the kernel's comes first: most are found at once.
        self.left.sort(key=lambda unit: unit.stem not in symbol)
        while symbol not in self.runs and self.left:
            module = Module(toolkit.ptx(self.left.pop(0)))
            run = as_callback([module], self.module.emulator.allocations)
            self.runs.update(dict.fromkeys(module.kernels, run))
        if symbol not in self.runs:
            raise LookupError(f"no unit has a kernel {symbol}")
        gate = _gate(symbol)
        if gate and launch["shared_bytes"] > gate.shared:
            given = launch["shared_bytes"]
            raise AssertionError(
                f"{gate.pattern}: {given} bytes of shared memory, its gate has {gate.shared}"
            )
        self.runs[symbol](launch)


@cache
def ptx_callback() -> UnitsCallback:
    return UnitsCallback(emulated())
