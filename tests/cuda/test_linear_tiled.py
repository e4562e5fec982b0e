"""`linear` for many tokens against float64, under every schedule, and from its PTX."""

from __future__ import annotations

import numpy as np
import pytest

from lanner.cuda.pack import unpack_rounded
from products import FUNCTIONS, GATED, LOGITS, Heads, Product, check, check_gated, gated_order

TYPES = ("bf16", "int8", "int4")
# Tiles are of 64 rows and tokens up to 64 tokens, of 128 above.
TOKENS = (33, 64, 100, 129)


class Rounded(Product):
    """Quantized weights are multiplied by as bf16."""

    of_bytes = False

    def unpacked(self):
        return unpack_rounded(self.packed)


def run(product, cuda, end=0, **more):
    return product.run(cuda, end, op="linear_tiled", **more)


# One stage of the ring and fewer than it holds; the last tile of 16 rows, of 8, and of a number that is no
# multiple of the 8 a lane stores at once.
@pytest.mark.parametrize("n_tokens", TOKENS)
@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("shape", [(16, 64), (152, 192), (100, 128)], ids=str)
def test_close_to_float64(cuda, everywhere, shape, type, n_tokens):
    product = Rounded.random(*shape, n_tokens, type)
    check(everywhere(lambda: run(product, cuda)), *product.sums())


@pytest.mark.parametrize(("type", "n_tokens"), [("bf16", 64), ("bf16", 65), ("int8", 50), ("int4", 70)])
def test_ring_goes_round(cuda, type, n_tokens):
    product = Rounded.random(32, 1088, n_tokens, type)
    check(run(product, cuda), *product.sums())


def test_bands_of_tiles(cuda):
    """Nine tiles along tokens and two along rows: the second band has one tile of tokens."""
    product = Rounded.random(144, 64, 1030, "bf16")
    check(run(product, cuda), *product.sums())


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(("n", "n_tokens"), [(72, 40), (60, 40), (136, 130)])
def test_bias_and_residual(cuda, everywhere, n, n_tokens, in_place):
    product = Rounded.random(n, 128, n_tokens, "bf16", bias=True, residual=True)
    y, bound = product.sums()
    wanted = y + product.residual
    got = everywhere(lambda: run(product, cuda, bound=n_tokens + 3, in_place=in_place))
    check(got, wanted, bound + abs(wanted) * 2**-23)


@pytest.mark.parametrize(("n", "n_tokens"), [(72, 40), (62, 40), (144, 129)])
def test_logits(cuda, everywhere, n, n_tokens):
    product = Rounded.random(n, 128, n_tokens, "bf16", bias=True)
    y, bound = product.sums()
    check(everywhere(lambda: run(product, cuda, LOGITS, bound=n_tokens + 1)), y, bound, bf16=False)


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("n_tokens", [40, 130])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_gated(cuda, everywhere, function, n_tokens, type):
    product = Rounded.random(160, 128, n_tokens, type, order=gated_order(160), bias=True)
    product.x[0] *= 16  # gates far from 0
    got = everywhere(lambda: run(product, cuda, GATED, bound=n_tokens + 1, function=FUNCTIONS[function]))
    check_gated(got, product, function)


HEADS = {
    "grouped": (4, 2, 64, 64),
    "wide": (1, 1, 128, 128),
    "partly": (2, 2, 48, 32),
    "not rotated": (1, 1, 32, 0),
}


@pytest.mark.parametrize(("n_tokens", "type"), [(35, "bf16"), (70, "bf16"), (66, "int4")])
@pytest.mark.parametrize("shape", HEADS.values(), ids=HEADS)
def test_qkv(cuda, everywhere, shape, n_tokens, type):
    """Tokens of three sequences, in pages that lie anywhere."""
    rng = np.random.default_rng(n_tokens)
    seqs = np.sort(rng.integers(0, 3, n_tokens))
    positions = np.concatenate([[20, 63, 90][s] + np.arange((seqs == s).sum()) for s in range(3)])
    pages = rng.permutation(18)[:15].reshape(3, 5)
    heads = Heads(*shape, positions, seqs, pages)
    product = Rounded.random(heads.n, 128, n_tokens, type, order=heads.order, bias=True)
    got = everywhere(lambda: heads.run(cuda, product, n_tokens + 1, op="linear_tiled"))
    heads.check(got, product)


@pytest.mark.parametrize("type", TYPES)
def test_tokens_do_not_see_each_other(cuda, type):
    product = Rounded.random(48, 128, 129, type)
    product.x[20] = np.nan
    whole = run(product, cuda, LOGITS)
    assert np.isnan(whole[20]).all()
    assert np.isfinite(np.delete(whole, 20, axis=0)).all()
    for n in (34, 64, 65):  # whichever tile they are in
        few = Rounded(product.x[:n], product.packed, product.order)
        np.testing.assert_array_equal(run(few, cuda, LOGITS), whole[:n])


@pytest.mark.parametrize(("n_tokens", "bound"), [(0, 40), (3, 70), (33, 300)])
def test_count_of_the_step(cuda, n_tokens, bound):
    """The count in device memory rules, not the bound."""
    product = Rounded.random(32, 128, n_tokens, "bf16")
    check(run(product, cuda, bound=bound), *product.sums())


def test_chosen_by_linear(cuda):
    product = Rounded.random(32, 128, 33, "bf16")
    np.testing.assert_array_equal(product.run(cuda), run(product, cuda))


def test_refuses_norm(fibers):
    product = Rounded.random(32, 128, 40, "bf16", norm=True)
    with pytest.raises(ValueError, match="linear: norm_weight is given for more than 32 rows"):
        run(product, fibers)
