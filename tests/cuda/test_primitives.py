"""Layouts of the emulated matrix instructions: against their description, and against CuTe's."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import toolkit
from emulation import planted
from values import from_bf16, to_bf16

RNG = np.random.default_rng(5)
LANE = np.arange(32)[:, None]


@pytest.fixture(autouse=True)
def clean() -> None:
    planted().emulator.configure(sm_version=90)
    planted().emulator.report()


@cache
def cute() -> dict[str, np.ndarray]:
    """What CuTe says: arrays of numbers by name (cute_layouts.cpp)."""
    package = importlib.util.find_spec("cutlass_library")
    folders = package.submodule_search_locations if package else None
    if not folders:
        if os.environ.get("LANNER_REQUIRE_TOOLS"):
            raise ModuleNotFoundError("nvidia-cutlass is missing")
        pytest.skip("needs nvidia-cutlass")
    source, program = Path(__file__).parent / "cute_layouts.cpp", toolkit.ROOT / "build/cuda/cute_layouts"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        program.parent.mkdir(parents=True, exist_ok=True)
        headers = Path(folders[0]) / "source/include"
        # nvcc for its headers alone: the compiler of the host does the work.
        command = [toolkit.tool("nvcc"), "-x", "c++", "-std=c++17", "-Xcompiler", "-w", f"-I{headers}"]
        subprocess.run([*map(str, command), str(source), "-o", str(program)], check=True)
    lines = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.splitlines()
    return {name: np.array(numbers, np.int64) for name, *numbers in map(str.split, lines)}


def pairs(values: np.ndarray) -> np.ndarray:
    """uint32: two bf16 each, the first in the lower half."""
    return np.ascontiguousarray(values, np.uint16).view(np.uint32)


def rows_and_columns(name: str) -> tuple[np.ndarray, np.ndarray]:
    """(lanes, values) row and column of each value of a fragment, as cuda/device.h says."""
    g, c = LANE // 4, 2 * (LANE % 4)
    low = np.array([0, 1])
    if name == "mma_a":
        return np.hstack([g, g, g + 8, g + 8] * 2), np.hstack([c + low, c + low, c + 8 + low, c + 8 + low])
    if name == "mma_b":  # of b as (n, k)
        return np.hstack([g] * 4), np.hstack([c + low, c + 8 + low])
    four = 2 * c + np.arange(4)
    if name == "mma_int8_a":
        return np.hstack([g] * 4 + [g + 8] * 4 + [g] * 4 + [g + 8] * 4), np.hstack(
            [four] * 2 + [four + 16] * 2
        )
    if name == "mma_int8_b":
        return np.hstack([g] * 8), np.hstack([four, four + 16])
    return np.hstack([g, g, g + 8, g + 8]), np.hstack([c + low, c + low])


FRAGMENTS = [("mma_a", 16), ("mma_b", 8), ("mma_d", 16)]
FRAGMENTS += [("mma_int8_a", 16), ("mma_int8_b", 8), ("mma_int8_d", 16)]


@pytest.mark.parametrize(("name", "n_rows"), FRAGMENTS)
def test_fragments_are_those_of_cute(name: str, n_rows: int) -> None:
    rows, columns = rows_and_columns(name)
    np.testing.assert_array_equal((rows + n_rows * columns).ravel(), cute()[name])


def test_wgmma_accumulators_are_those_of_cute() -> None:
    t, j = np.arange(128)[:, None], np.arange(128)
    rows = 16 * (t // 32) + t % 32 // 4 + 8 * (j % 4 // 2)
    columns = 8 * (j // 4) + 2 * (t % 4) + j % 2
    np.testing.assert_array_equal((rows + 64 * columns).ravel(), cute()["wgmma_d"])


def test_tiles_are_those_of_cute() -> None:
    matrix = np.arange(256 * 64, dtype=np.uint16).reshape(256, 64)
    tile = planted().load_tile(matrix, 256, 0, 0).ravel()
    np.testing.assert_array_equal(tile[cute()["tile"]], matrix.ravel())
    assert planted().emulator.report() == []


@pytest.mark.parametrize(
    ("row", "column"), [(0, 0), (3, 64), (-5, 0), (90, 128), (200, 0), (0, -8), (7, 136)]
)
def test_tiles_at_the_edges(row: int, column: int) -> None:
    matrix = RNG.integers(1, 2**16, (100, 160), dtype=np.uint16)
    tile = planted().load_tile(matrix, 32, row, column)
    wanted = np.zeros((32, 64), np.uint16)
    for r in range(32):
        for c in range(64):
            if 0 <= row + r < 100 and 0 <= column + c < 160:
                wanted[r, 8 * (c // 8 ^ r % 8) + c % 8] = matrix[row + r, column + c]
    np.testing.assert_array_equal(tile, wanted)
    assert planted().emulator.report() == []


@pytest.mark.parametrize("n_matrices", [2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_load_matrices(n_matrices: int, transposed: bool) -> None:
    rows = RNG.integers(0, 2**16, (32, 8), dtype=np.uint16)
    registers = planted().load_matrices(rows, n_matrices, transposed)
    for i in range(n_matrices):
        matrix = rows[8 * i : 8 * i + 8]
        wanted = pairs(
            matrix.T if transposed else matrix
        ).ravel()  # lane l: row l / 4, columns 2 (l % 4) and next
        np.testing.assert_array_equal(registers[:, i], wanted)
    assert planted().emulator.report() == []


def test_mma() -> None:
    a, b = to_bf16(RNG.standard_normal((16, 16))), to_bf16(RNG.standard_normal((8, 16)))
    d = RNG.standard_normal((16, 8)).astype(np.float32)
    fragment = {n: m[rows_and_columns(n)] for n, m in (("mma_a", a), ("mma_b", b), ("mma_d", d))}
    out = planted().mma(pairs(fragment["mma_a"]), pairs(fragment["mma_b"]), fragment["mma_d"])
    wanted = d + from_bf16(a).astype(np.float64) @ from_bf16(b).astype(np.float64).T
    result = np.empty((16, 8))
    result[rows_and_columns("mma_d")] = out
    # 17 terms of about 1, each sum rounded to float32
    np.testing.assert_allclose(result, wanted, rtol=0, atol=17 * 2.0**-24 * np.abs(wanted).max() * 4)


def test_mma_int8() -> None:
    a, b = (RNG.integers(-128, 128, (n, 32)).astype(np.int8) for n in (16, 8))
    a[:2], b[:2] = -128, -128  # the largest sum that there is
    d = RNG.integers(-(2**31), 2**31, (16, 8)).astype(np.int32)
    registers = [
        m[rows_and_columns(n)].copy().view(np.uint32) for n, m in (("mma_int8_a", a), ("mma_int8_b", b))
    ]
    out = planted().mma_int8(*registers, d[rows_and_columns("mma_int8_d")])
    result = np.empty((16, 8), np.int32)
    result[rows_and_columns("mma_int8_d")] = out
    # Sums wrap around.
    np.testing.assert_array_equal(result, (d + a.astype(np.int64) @ b.astype(np.int64).T).astype(np.int32))
