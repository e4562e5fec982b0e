"""The interpreter on small kernels, against NumPy."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import numpy as np
import pytest

import toolkit
from ptx.interpreter import Module, PtxError, Statistics

RNG = np.random.default_rng(7)


@pytest.fixture(scope="module")
def module() -> Module:
    return Module(toolkit.ptx(toolkit.ROOT / "tests/cuda/ptx/kernels.cu"))


def aligned(values: np.ndarray) -> np.ndarray:
    """A copy that begins at a multiple of 256 bytes, as device memory does."""
    raw = np.zeros(values.nbytes + 256, np.uint8)
    skip = -raw.ctypes.data % 256
    out = raw[skip : skip + values.nbytes].view(values.dtype).reshape(values.shape)
    out[...] = values
    return out


def run(
    module: Module, name: str, grid: int, block: int, shared: int, layout: str, *args: Any, **more: Any
) -> None:
    """Arrays among the arguments are passed by address, and are the only memory there is."""
    symbol = next(s for s in module.kernels if f"{name}_kernel" in s)
    arrays = [a for a in args if isinstance(a, np.ndarray)]
    params = struct.pack(layout, *(a.ctypes.data if isinstance(a, np.ndarray) else a for a in args))
    params = params.ljust(-(-len(params) // 8) * 8, b"\0")
    allocations = [(a.ctypes.data, a.nbytes) for a in arrays]
    module.launch(symbol, (grid, 1, 1), block, shared, [params], allocations, **more)


def bf16(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def wide(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def test_functions_of_floats(module: Module) -> None:
    x = aligned((10 ** RNG.uniform(-3, 1.5, 1000)).astype(np.float32))
    out = aligned(np.full((8, 1000), np.nan, np.float32))
    run(module, "functions", 8, 128, 0, "QQi", x, out, len(x))
    exact = x.astype(np.float64)
    wanted = [
        np.exp2(exact),
        np.log2(exact),
        1 / exact,
        1 / np.sqrt(exact),
        np.tanh(exact),
        None,
        exact / 3,
        None,
    ]
    for row, values in zip(out, wanted, strict=True):
        if values is not None:
            np.testing.assert_allclose(row, values, rtol=2**-23)
    nearest = exact / 2.0 ** (np.frexp(exact)[1] - 8)
    np.testing.assert_array_equal(out[5], np.rint(nearest) * 2.0 ** (np.frexp(exact)[1] - 8))
    np.testing.assert_array_equal(out[7], np.trunc(exact))


def test_functions_at_the_ends(module: Module) -> None:
    x = aligned(np.array([-np.inf, np.inf, np.nan, 0.0, -0.0, 1e-40, 3e38, 5e9], np.float32))
    out = aligned(np.zeros((8, 8), np.float32))
    run(module, "functions", 1, 128, 0, "QQi", x, out, len(x))
    np.testing.assert_array_equal(out[0], np.array([0, np.inf, np.nan, 1, 1, 1, np.inf, np.inf], np.float32))
    np.testing.assert_array_equal(out[2, :6], np.array([0, 0, np.nan, np.inf, -np.inf, np.inf], np.float32))
    np.testing.assert_array_equal(out[5, :5], x[:5])
    assert out[5, 6] == np.float32(226 * 2.0**120)
    # float to int saturates, and NaN gives 0
    np.testing.assert_array_equal(out[7], np.float32([-(2.0**31), 2.0**31, 0, 0, 0, 0, 2.0**31, 2.0**31]))


def test_functions_of_integers(module: Module) -> None:
    a, b = (
        aligned(RNG.integers(-(2**31), 2**31, 500).astype(np.int32) >> RNG.integers(0, 28, 500)) for _ in "ab"
    )
    a, b = aligned(a.astype(np.int32)), aligned(b.astype(np.int32))
    out = aligned(np.zeros((12, 500), np.int64))
    run(module, "integers", 4, 128, 0, "QQQi", a, b, out, 500)
    for i in range(500):
        x, y = int(a[i]), int(b[i])
        u, v = x % 2**32, y % 2**32
        quotient = abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1) if y else 0
        wrapped = (quotient + 2**31) % 2**32 - 2**31
        bytes_ = u.to_bytes(4, "little") + v.to_bytes(4, "little")
        square = y * y + 7
        wanted = [
            x * y, wrapped, x - quotient * y if y else 0, u % (v | 1), x >> (v & 31), (u << (v & 31)) % 2**32,
            int.from_bytes(bytes(bytes_[s] for s in (0, 4, 2, 6)), "little"),
            u & 0x00FF00FF | v, u >> 7 & 0x1FF,
            x if x < y else y << 20, abs(x) // square * (1 if x >= 0 else -1), ((u << 32 | v) >> 13),
        ]  # fmt: skip
        assert [int(o) for o in out[:, i]] == wanted, (x, y)


def test_pairs(module: Module) -> None:
    a, b, c = (aligned(RNG.standard_normal((64, 2)).astype(np.float32)) for _ in "abc")
    bits = [aligned(np.ascontiguousarray(bf16(x)).view(np.uint32)[:, 0]) for x in (a, b, c)]
    fma, halves = aligned(np.zeros(64, np.uint32)), aligned(np.zeros((64, 2), np.float32))
    run(module, "pairs", 1, 64, 0, "QQQQQi", *bits, fma, halves, 64)
    x, y, z = (wide(s.view(np.uint16)).astype(np.float64) for s in bits)
    np.testing.assert_allclose(wide(fma.view(np.uint16)), x * y + z, rtol=2**-8 / (1 + 2**-8))
    np.testing.assert_array_equal(halves.reshape(-1), bits[0].view(np.float16).astype(np.float32))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("k", [16, 48, 208])
def test_product_of_matrices(module: Module, k: int, transposed: bool) -> None:
    # Small integers: every order of the sums gives the same, so a wrong element cannot hide.
    a, b = (aligned(bf16(RNG.integers(-8, 9, (n, k)))) for n in (16, 8))
    stored = aligned(np.ascontiguousarray(b.T)) if transposed else b
    out = aligned(np.full((16, 8), np.nan, np.float32))
    run(module, "product", 1, 32, 4 * 768, "QQQi?", a, stored, out, k, transposed)
    np.testing.assert_array_equal(out, wide(a) @ wide(b).T)


def test_product_of_bytes(module: Module) -> None:
    a, b = (RNG.integers(-128, 128, (n, 32)).astype(np.int8) for n in (16, 8))
    d = RNG.integers(-(2**31), 2**31, (16, 8)).astype(np.int32)
    g, c = np.arange(32)[:, None] // 4, np.arange(32)[:, None] % 4
    four = 4 * c + np.arange(4)
    of_a = np.hstack([a[g + 8 * (i % 2), four + 16 * (i // 2)] for i in range(4)])
    of_b = np.hstack([b[g, four], b[g, four + 16]])
    rows, columns = np.hstack([g, g, g + 8, g + 8]), np.hstack([2 * c, 2 * c + 1] * 2)
    sums = aligned(d[rows, columns])
    run(module, "bytes", 1, 32, 0, "QQQ", *(aligned(f.copy().view(np.uint32)) for f in (of_a, of_b)), sums)
    wanted = (d + 2 * (a.astype(np.int64) @ b.astype(np.int64).T)).astype(np.int32)
    np.testing.assert_array_equal(sums, wanted[rows, columns])


def test_last_block_sees_what_all_wrote(module: Module) -> None:
    x = aligned(RNG.integers(-50, 50, 30000).astype(np.float32))
    partial, out = aligned(np.full(150, np.nan, np.float32)), aligned(np.full(1, np.nan, np.float32))
    n_done, largest = aligned(np.zeros(1, np.int32)), aligned(np.zeros(1, np.uint32))
    run(module, "sum", 150, 128, 20, "QQQQQi", x, partial, out, n_done, largest, len(x))
    assert (out[0], n_done[0], largest[0]) == (x.sum(), 150, 30000)


def test_lanes_meet_again(module: Module) -> None:
    trips = aligned(RNG.integers(0, 9, 128).astype(np.int32))
    out = aligned(np.zeros((6, 128), np.uint32))
    run(module, "lanes", 1, 128, 512, "QQ", trips, out)
    value = np.ones(128, np.uint32)
    for i in range(9):
        value = np.where(trips > i, value * np.uint32(3) + np.uint32(i), value)
    t = np.arange(128)
    bits = (value & 1).astype(np.uint64).reshape(4, 32) << np.arange(32, dtype=np.uint64)
    halves = (value[:64] + value[64:]).astype(np.uint32)
    wanted = [
        value, np.where(t % 32 < 3, value, np.roll(value, 3)), np.repeat(bits.sum(axis=1), 32),
        value[t // 32 * 32 + t * 7 % 32], value[t ^ 63], np.concatenate([halves, halves]),
    ]  # fmt: skip
    np.testing.assert_array_equal(out, np.array(wanted))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (0, "out of bounds of global memory"),
        (1, "is misaligned"),
        (2, "that nothing was written to"),
        (3, "out of bounds of shared memory"),
        (4, "which other lanes of the warp never reach"),
        (6, "a copy is under way to"),
    ],
)
def test_faults_are_found(module: Module, kind: int, message: str) -> None:
    with pytest.raises(PtxError, match=message):
        run(module, "faults", 1, 64, 4096, "Qi", aligned(np.zeros(64, np.float32)), kind)


def test_barrier_in_a_branch_counts_threads_that_ended(module: Module) -> None:
    x = aligned(np.zeros(64, np.float32))
    run(module, "faults", 1, 64, 4096, "Qi", x, 5)
    assert x[:32].all()


def test_unknown_opcodes_are_refused(module: Module) -> None:
    text = toolkit.ptx(toolkit.ROOT / "tests/cuda/ptx/kernels.cu")
    changed = Module(text.replace("tanh.approx", "cosine.approx"))
    x = aligned(np.zeros(8, np.float32))
    with pytest.raises(PtxError, match=r"cosine\.approx"):
        run(changed, "functions", 1, 128, 0, "QQi", x, aligned(np.zeros((8, 8), np.float32)), 8)


def test_statistics(module: Module) -> None:
    """Sectors, wavefronts and bytes of kernels that are plain enough to count by hand."""
    x, out = aligned(np.ones(1024, np.float32)), aligned(np.zeros((8, 1024), np.float32))
    statistics = Statistics()
    run(module, "functions", 8, 128, 0, "QQi", x, out, 1024, statistics=statistics)
    loads, stores = statistics.total(statistics.loads), statistics.total(statistics.stores)
    assert (loads.accesses, loads.units, loads.ideal) == (32, 128, 128)
    assert (stores.units, stores.ideal) == (8 * 128, 8 * 128)
    assert (len(statistics.read), len(statistics.written)) == (128, 1024)
    statistics = Statistics()
    a, b = aligned(np.zeros((16, 16), np.uint16)), aligned(np.zeros((8, 16), np.uint16))
    run(module, "product", 1, 32, 3072, "QQQi?", a, b, aligned(np.zeros((16, 8), np.float32)), 16, False,
        statistics=statistics)  # fmt: skip
    matrices = next(t for text, t in statistics.shared.items() if "x4" in text)
    # Rows of 32 bytes: rows r and r + 4 of a matrix lie in the same banks.
    assert (matrices.units, matrices.ideal) == (8, 4)
    assert statistics.opcodes["mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"] == 1


def test_memory_is_used_in_place() -> None:
    text = """.version 9.0
.target sm_80
.address_size 64
.visible .entry double_it(.param .u64 p) {
  .reg .b64 %rd<3>; .reg .b32 %r<4>;
  ld.param.u64 %rd1, [p]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd1, %rd1, %rd2;
  ld.u32 %r2, [%rd1]; add.u32 %r2, %r2, %r2; st.u32 [%rd1], %r2; ret; }"""
    memory = (ctypes.c_uint32 * 32)(*range(32))
    address = ctypes.addressof(memory)
    Module(text).launch("double_it", (1, 1, 1), 32, 0, [struct.pack("<Q", address)], [(address, 128)])
    assert list(memory) == [2 * i for i in range(32)]
