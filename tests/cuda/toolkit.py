"""nvcc and nvdisasm: PTX and cubins of the kernel units, kept in build/cuda under a hash of their sources."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sysconfig
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
FLAGS = ("-std=c++20", "-O3", f"-I{CSRC}")
"""As in the build of lanner._cuda: what is verified is what is shipped."""
ARCHES = ("80", "86", "89", "90a", "100", "120")


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


def compiled(source: Path, folder: str, suffix: str, flags: tuple[str, ...]) -> tuple[Path, str]:
    """The output of nvcc for a .cuh or .cu file and what it said, made anew when a source has changed."""
    seen: dict[Path, bytes] = {}
    _closure(source, seen)
    key = hashlib.sha256(repr([FLAGS, flags, *sorted(seen.values())]).encode()).hexdigest()[:16]
    out = ROOT / "build/cuda" / folder / f"{source.stem}-{key}{suffix}"
    log = out.with_suffix(out.suffix + ".log")
    if not out.exists() or not log.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        for old in out.parent.glob(f"{source.stem}-*{suffix}*"):
            if re.fullmatch(rf"{re.escape(source.stem)}-[0-9a-f]{{16}}{re.escape(suffix)}(\.log)?", old.name):
                old.unlink()
        unit = out.parent / f"{source.stem}-{key}.cu"
        unit.write_text(f'#include "{source}"\n')
        partial = out.with_suffix(f".partial{os.getpid()}")
        command = [str(tool("nvcc")), *FLAGS, *flags, str(unit), "-o", str(partial)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        unit.unlink()
        if done.returncode:
            raise RuntimeError(f"nvcc failed on {source.name}: {done.stdout}{done.stderr}")
        log.write_text(done.stdout + done.stderr)
        partial.rename(out)
    return out, log.read_text()


def ptx(source: Path) -> str:
    """The PTX for sm_80."""
    out, _ = compiled(source, "ptx", ".ptx", ("-gencode", "arch=compute_80,code=compute_80", "-ptx"))
    return out.read_text()
