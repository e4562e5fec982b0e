"""nvcc and nvdisasm: PTX and cubins of the kernel units, kept in build/cuda under a hash of their sources."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
FLAGS = ("-std=c++20", "-O3", f"-I{CSRC}")
"""As in the build of lanner._cuda: what is verified is what is shipped."""
CODES = {"80": ("80", "86", "89"), "90a": ("90a",), "90": ("100", "120")}
"""Architectures whose machine code is made of the same PTX, as in csrc/cuda/module.cmake."""
ARCHES = tuple(arch for arches in CODES.values() for arch in arches)


@cache
def tool(name: str) -> Path:
    """A program of the toolkit: from CUDA_HOME, PATH, or the packages of this environment."""
    packages = Path(sysconfig.get_path("purelib")) / "nvidia/cu13/bin"
    homes = [Path(os.environ["CUDA_HOME"]) / "bin"] if "CUDA_HOME" in os.environ else []
    for folder in [*homes, *map(Path, os.environ.get("PATH", "").split(os.pathsep)), packages]:
        if found := shutil.which(name, path=str(folder)):
            return Path(found)
    raise FileNotFoundError(
        f"{name} is in no folder of CUDA_HOME, PATH or this environment: make test-cuda installs it"
    )


def units() -> list[Path]:
    """Every kernel file. Those named *_sm90.cuh are for sm_90a alone."""
    return sorted((CSRC / "cuda").glob("*.cuh"))


def is_sm90(unit: Path) -> bool:
    return unit.stem.endswith("_sm90")


def _closure(source: Path, seen: dict[Path, bytes]) -> None:
    if source in seen:
        return
    seen[source] = source.read_bytes()
    for name in re.findall(rb'#include "([^"]+)"', seen[source]):
        for folder in (CSRC, source.parent):
            if (folder / name.decode()).is_file():
                _closure(folder / name.decode(), seen)
                break


def cached(source: Path, folder: str, suffix: str, make: Callable[[Path], None]) -> Path:
    """The file that `make` writes from a source, made anew when what the source includes has changed."""
    seen: dict[Path, bytes] = {}
    _closure(source, seen)
    key = hashlib.sha256(repr([FLAGS, ARCHES, *sorted(seen.values())]).encode()).hexdigest()[:16]
    out = ROOT / "build/cuda" / folder / f"{source.stem}-{key}{suffix}"
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        for old in out.parent.iterdir():
            if re.fullmatch(rf"{re.escape(source.stem)}-[0-9a-f]{{16}}{re.escape(suffix)}", old.name):
                old.unlink()
        partial = out.with_suffix(f".partial{os.getpid()}")
        make(partial)
        partial.rename(out)
    return out


def run(command: Sequence[str | Path]) -> str:
    """What a program says. RuntimeError with it when the program fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed:\n{done.stdout[-6000:]}{done.stderr[-6000:]}")
    return done.stdout + done.stderr


def ptx(source: Path) -> str:
    """The PTX for sm_80 of a .cuh or .cu file."""

    def make(out: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            unit = Path(folder) / f"{source.stem}.cu"
            unit.write_text(f'#include "{source}"\n')
            target = ("-gencode", "arch=compute_80,code=compute_80", "-ptx")
            run([tool("nvcc"), *FLAGS, *target, unit, "-o", out])

    return cached(source, "ptx", ".ptx", make).read_text()
