"""`linear` by the matrix instructions of sm_90a against float64, under every schedule of level 1."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import SCHEDULES
from lanner.cuda.pack import unpack_rounded
from products import FUNCTIONS, GATED, LOGITS, Heads, Product, check, check_gated, gated_order
from values import put

# Those of the other kernels, and what only this one can get wrong: copies and matrix instructions that run at
# their own pace.
PACES = [*SCHEDULES, {"order": "reverse", "tensor_copies": "eager", "wgmma": "lazy"},
         {"order": "random", "seed": 2, "tensor_copies": "lazy", "wgmma": "eager"}]  # fmt: skip


class Plain(Product):
    """The weights are given in row-major order too."""

    def args(self, cuda, bound):
        return super().args(cuda, bound) | {"plain": put(cuda, unpack_rounded(self.packed), "bf16")}

    def unpacked(self):
        return unpack_rounded(self.packed)


def run(product, cuda, end=0, **more):
    return product.run(cuda, end, op="linear_sm90", **more)


@pytest.fixture
def always(fibers):
    """always(call): the result of `call`, the same bits at every pace."""

    def run_all(call):
        results = []
        for pace in PACES:
            fibers.emulator.configure(checks=True, sm_version=90, n_sms=2, **pace)
            result = call()
            assert fibers.emulator.report() == [], pace
            results.append(result if isinstance(result, tuple) else (result,))
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                np.testing.assert_array_equal(a, b)
        return result

    yield run_all
    fibers.emulator.configure(checks=True)


# Fewer stages than the ring has, as many, more; edges of tiles of 128 tokens and 256 rows.
@pytest.mark.parametrize("shape", [(33, 16, 64), (64, 264, 192), (128, 250, 256), (129, 256, 320)], ids=str)
def test_close_to_float64(fibers, always, shape):
    n_tokens, n, k = shape
    product = Plain.random(n, k, n_tokens, "bf16")
    check(always(lambda: run(product, fibers)), *product.sums())


def test_block_takes_many_tiles(fibers, always):
    """Five tiles on two multiprocessors: the ring runs on from tile to tile."""
    product = Plain.random(1040, 192, 40, "bf16")
    check(always(lambda: run(product, fibers)), *product.sums())


@pytest.mark.parametrize(("n", "in_place"), [(72, False), (60, False), (72, True)])
def test_bias_and_residual(fibers, always, n, in_place):
    product = Plain.random(n, 128, 130, "bf16", bias=True, residual=True)
    y, bound = product.sums()
    wanted = y + product.residual
    got = always(lambda: run(product, fibers, bound=260, in_place=in_place))
    check(got, wanted, bound + abs(wanted) * 2**-23)


def test_logits(fibers, always):
    product = Plain.random(72, 128, 70, "int8", bias=True)
    y, bound = product.sums()
    check(always(lambda: run(product, fibers, LOGITS, bound=71)), y, bound, bf16=False)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_gated(fibers, always, function):
    product = Plain.random(288, 128, 70, "bf16", order=gated_order(288), bias=True)
    got = always(lambda: run(product, fibers, GATED, function=FUNCTIONS[function]))
    check_gated(got, product, function)


def test_qkv(fibers, always):
    seqs = np.repeat([0, 1], [30, 40])
    positions = np.concatenate([20 + np.arange(30), np.arange(40)])
    heads = Heads(4, 2, 64, 64, positions, seqs, np.array([[3, 1], [0, 4]]))
    product = Plain.random(heads.n, 128, 70, "bf16", order=heads.order, bias=True)
    heads.check(always(lambda: heads.run(fibers, product, 75, op="linear_sm90")), product)


def test_count_of_the_step(fibers):
    """The count in device memory rules, not the bound: no tokens, no tile."""
    fibers.emulator.configure(checks=True, sm_version=90)
    product = Plain.random(32, 128, 0, "bf16")
    assert run(product, fibers, bound=300).shape == (0, 32)
    assert fibers.emulator.report() == []


def test_chosen_on_an_h100(fibers):
    """If a plain copy of the weights is there, and tiles are enough."""
    product = Plain.random(272, 128, 65, "bf16")
    results = {}
    for n_sms in (3, 4):
        fibers.emulator.configure(checks=True, sm_version=90, n_sms=n_sms)
        fibers.emulator.set_interpreter(launches := Launches())
        try:
            product.run(fibers, op="linear_tiled")
        finally:
            fibers.emulator.set_interpreter(None)
        results[n_sms] = launches.symbols
    assert "linear_sm90_kernel" in results[3][0]
    assert "linear_tiled_kernel" in results[4][0]


class Launches:
    """Records which kernels would run."""

    def __init__(self):
        self.symbols = []

    def __call__(self, launch):
        self.symbols.append(launch["symbol"])
