"""The arrows of the design, the limits on file size, and the symbols of the instruction sets."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CSRC, PYTHON = ROOT / "csrc", ROOT / "python" / "lanner"

# Folder -> folders that its files may include.
INCLUDES = {
    "core": {"core"},
    "formats": {"core", "formats"},
    "text": {"core", "text"},
    "ops": {"core", "ops"},
    "simd": {"simd"},
    "cpu": {"core", "ops", "simd", "cpu"},
    "cuda": {"core", "ops", "cuda"},
    "program": {"core", "ops", "cpu", "program"},
    "bind": {"core", "formats", "text", "ops", "cpu", "program", "bind"},
    "bind/cuda": {"core", "ops", "cuda", "bind"},
}
GENERATED = "built_isas.h"
# `program` takes from cpu only the chosen table of kernels, never a kernel.
PROGRAM_MAY_SEE = {"cpu/backend.h"}

# Module -> modules of the package that it may import; what is not listed is checked by the rules below.
ENGINE_SIDE = {"engine", "scheduler", "sequence", "llm", "cli"}


def sources(folder: Path, *patterns: str) -> list[Path]:
    return sorted(p for pattern in patterns for p in folder.rglob(pattern))


@pytest.mark.parametrize(
    "path", sources(CSRC, "*.h", "*.cpp", "*.cuh"), ids=lambda p: str(p.relative_to(CSRC))
)
def test_includes_follow_the_arrows(path: Path) -> None:
    folder = "/".join(path.relative_to(CSRC).parts[:-1])
    while folder not in INCLUDES:
        folder = folder.rpartition("/")[0]
    for included in re.findall(r'^#include "([^"]+)"', path.read_text(), re.MULTILINE):
        assert included == GENERATED or included.split("/")[0] in INCLUDES[folder], included
        if folder in ("program", "bind") and included.startswith("cpu/"):
            assert included in PROGRAM_MAY_SEE


def test_binding_of_cuda_stands_apart() -> None:
    """Its module holds nothing of the other's."""
    for path in sources(CSRC / "bind" / "cuda", "*"):
        for included in re.findall(r'^#include "bind/([^"]+)"', path.read_text(), re.MULTILINE):
            assert included.startswith("cuda/"), path


@pytest.mark.parametrize("path", sources(CSRC / "cuda", "*.h", "*.cuh"), ids=lambda p: p.name)
def test_kernels_name_no_header_of_cuda(path: Path) -> None:
    for included in re.findall(r"^#include <([^>]+)>", path.read_text(), re.MULTILINE):
        assert "cuda" not in included


@pytest.mark.parametrize("path", sources(CSRC, "*.h", "*.cpp"), ids=lambda p: str(p.relative_to(CSRC)))
def test_only_bind_knows_python(path: Path) -> None:
    if path.relative_to(CSRC).parts[0] != "bind":
        assert "pybind11" not in path.read_text()


def imports_of(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.removeprefix("lanner.") for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "lanner":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").removeprefix("lanner."))
    return names


@pytest.mark.parametrize("path", sources(PYTHON / "models", "*.py"), ids=lambda p: p.name)
def test_models_import_nothing_from_the_engine(path: Path) -> None:
    assert not imports_of(path) & ENGINE_SIDE


def test_engine_layers_import_downwards() -> None:
    order = ["sequence", "scheduler", "engine", "llm", "cli"]
    for i, name in enumerate(order):
        assert not imports_of(PYTHON / f"{name}.py") & set(order[i + 1 :]), name
    below = ("builder", "arena", "checkpoint", "hf_folder", "hf_config", "safetensors", "weights", "config")
    for name in (*below, "kv_cache", "program", "decoder", "tokenizer"):
        assert not imports_of(PYTHON / f"{name}.py") & ENGINE_SIDE, name


def test_the_bench_stands_beside_the_package() -> None:
    """It uses operations; nothing but the command line, when asked, loads it."""
    for path in sources(PYTHON / "bench", "*.py"):
        assert not imports_of(path) & ENGINE_SIDE, path
    for path in sources(PYTHON, "*.py"):
        if path.parent.name != "bench" and path.name != "cli.py":
            assert not any(name.split(".")[0] == "bench" for name in imports_of(path)), path


@pytest.mark.parametrize(
    ("folder", "patterns", "limit"),
    [(CSRC, ("*.h", "*.cpp", "*.cuh", "*.cu"), 400), (PYTHON, ("*.py", "*.pyx", "*.pxi"), 300)],
    ids=["csrc", "python"],
)
def test_files_stay_short(folder: Path, patterns: tuple[str, ...], limit: int) -> None:
    long = {str(p): n for p in sources(folder, *patterns) if (n := len(p.read_text().splitlines())) > limit}
    assert not long


def isa_objects() -> list[Path]:
    """Of the sets that users get: emulated ones are for tests, on machines that run all that they contain."""
    found = ROOT.glob("build/**/cpu_*.dir/**/*.o")
    return sorted(path for path in found if "_emulated.dir" not in str(path))


def test_kernels_export_no_weak_code() -> None:
    """A weak function in two objects with different flags: the linker would keep either one."""
    objects = isa_objects()
    if not objects and not os.environ.get("LANNER_REQUIRE_MODELS"):
        pytest.skip("no object files beside the sources: make test builds them there")
    assert objects
    for path in objects:
        listing = subprocess.run(["nm", "-C", str(path)], capture_output=True, text=True, check=True).stdout
        assert not re.findall(r"^[0-9a-f]+ [Ww] .*$", listing, re.MULTILINE), path
