"""Bytes that operations on rows move, counted in the PTX: each sector of 32 bytes once, and whole."""

from __future__ import annotations

import numpy as np
import pytest

import toolkit
from emulation import emulated
from ptx.interpreter import Module, as_callback
from ptx.statistics import Statistics
from values import call, put, room, rows


def traffic(unit, run):
    """Statistics of the launches of run(cuda), from the PTX of csrc/cuda/<unit>.cuh."""
    cuda, statistics = emulated(), Statistics()
    module = Module(toolkit.ptx(next(u for u in toolkit.units() if u.stem == unit)))
    cuda.emulator.set_interpreter(as_callback([module], cuda.emulator.allocations, statistics))
    try:
        run(cuda)
    finally:
        cuda.emulator.set_interpreter(None)
    return statistics


def wide(part):
    """Of the accesses of 16 bytes a lane: all but counts and sums of parts."""
    return sum(
        (t for text, t in part.items() if "v4" in text or "cp.async" in text),
        start=type(next(iter(part.values())))(),
    )


@pytest.mark.parametrize(
    ("cols", "kind", "reads"),
    [(1024, "float32", 1), (512, "bf16", 1), (4096, "float32", 1), (16384, "bf16", 1), (16384, "float32", 2)],
)
def test_softmax(cols, kind, reads):
    """One read and one write of each element; of rows beyond 32 KB two reads."""
    x, n = np.random.default_rng(0).standard_normal((4, cols)), 4 * cols * (4 if kind == "float32" else 2)

    def run(cuda):
        number = 0 if kind == "float32" else 1
        call(cuda, "softmax", 4, x=put(cuda, x, kind), out=room(cuda, 4, cols, kind=kind), x_type=number,
             out_type=number, cols=cols, rows=rows(cuda, 4))  # fmt: skip

    s = traffic("softmax", run)
    loads, stores = wide(s.loads), wide(s.stores)
    assert loads.units == loads.ideal == reads * n // 32
    assert stores.units == stores.ideal == n // 32
    assert len(s.written) == n // 32
    shared = s.total(s.shared)
    assert shared.units == shared.ideal


@pytest.mark.parametrize("cols", [576, 4096, 16384])
def test_rms_norm(cols):
    """x once, out once; the weight, which stays in L2, once for each row."""
    x, n = np.random.default_rng(0).standard_normal((3, cols)), 3 * cols * 2

    def run(cuda):
        call(cuda, "rms_norm", 3, x=put(cuda, x, "bf16"), out=room(cuda, 3, cols, kind="bf16"), cols=cols,
             weight=put(cuda, x[0], "float32"), eps=1e-5, rows=rows(cuda, 3))  # fmt: skip

    s = traffic("rms_norm", run)
    loads, stores = wide(s.loads), wide(s.stores)
    assert stores.units == stores.ideal == n // 32
    # A lane's 8 columns of the weight are two loads 32 bytes apart: the second finds its sector in L1.
    assert loads.units == n // 32 + 2 * 2 * n // 32
    assert len(s.read) == n // 32 + cols * 4 // 32 + 1


@pytest.mark.parametrize(("op", "n_in"), [("add", 2), ("activate", 2)])
def test_elements(op, n_in):
    x, n = np.random.default_rng(0).standard_normal((6, 2048)), 3 * 2048 * 2

    def run(cuda):
        given = {"cols": 2048, "rows": rows(cuda, 3), "out": room(cuda, 3, 2048, kind="bf16")}
        if op == "add":
            given |= {"a": put(cuda, x[:3], "bf16"), "b": put(cuda, x[3:], "bf16")}
        else:
            given |= {"x": put(cuda, x.reshape(3, -1), "bf16"), "function": 0, "block": 2048}
        call(cuda, op, 3, **given)

    s = traffic(op, run)
    loads, stores = wide(s.loads), wide(s.stores)
    assert loads.units == loads.ideal == n_in * n // 32
    assert stores.units == stores.ideal == n // 32
