"""`linear` for few tokens against float64, under every schedule, and from its PTX."""

from __future__ import annotations

import numpy as np
import pytest

from lanner.cuda.pack import pack
from products import FUNCTIONS, GATED, LOGITS, Heads, Product, check, check_gated, gated_order
from values import U_BF16, call, put, room, rows

TYPES = ("bf16", "int8", "int4")
# Rows that do and do not fill tiles, one unit of k, numbers of units that are no multiple of the warps that
# share a tile, and fewer units than stages of the ring.
SHAPES = ((16, 64), (40, 192), (7, 576), (272, 832))
TOKENS = (1, 8, 9, 16, 17, 32)


class Exact(Product):
    """Of tokens that planes of bytes hold as they are."""

    of_bytes = False


@pytest.mark.parametrize("n_tokens", TOKENS)
@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_close_to_float64(cuda, everywhere, shape, type, n_tokens):
    product = Product.random(*shape, n_tokens, type)
    check(everywhere(lambda: product.run(cuda)), *product.sums())


@pytest.mark.parametrize(("type", "n_tokens"), [("bf16", 1), ("bf16", 20), ("int8", 4), ("int4", 11)])
def test_more_blocks(cuda, everywhere, type, n_tokens):
    product = Product.random(*SHAPES[3], n_tokens, type)
    check(everywhere(lambda: product.run(cuda)), *product.sums())


@pytest.mark.parametrize(("n_tokens", "k"), [(1, 6464), (3, 2112), (8, 1472), (13, 1600), (30, 832)])
@pytest.mark.parametrize("type", ["int8", "int4"])
def test_stretches_of_k(cuda, type, n_tokens, k):
    """More of k than the planes of eight tokens and less have room for at once; the last stretch is short."""
    product = Product.random(40, k, n_tokens, type, norm=True)
    y, bound = product.sums()
    check(product.run(cuda, LOGITS), y, bound, bf16=False)


@pytest.mark.parametrize(("n_tokens", "k"), [(1, 192), (2, 6464), (5, 1472), (8, 64), (12, 448), (32, 192)])
@pytest.mark.parametrize("type", ["int8", "int4"])
def test_planes_of_bytes_are_exact(cuda, type, n_tokens, k):
    """Of tokens with 127 in every group the scale is 1: multiples of 1/256 keep all their bits."""
    product = Exact.random(24, k, n_tokens, type)
    rng = np.random.default_rng(k)
    product.x = rng.integers(-127, 128, (n_tokens, k)).astype(np.float32)
    product.x[:, ::2] = rng.integers(-255, 256, (n_tokens, k // 2)) / 256
    product.x[:, 1::32] = 127
    y, bound = product.sums()
    check(product.run(cuda, LOGITS), y, bound, bf16=False)


@pytest.mark.parametrize(("n_groups", "n_blocks"), [(12, 3), (10, 5)])
@pytest.mark.parametrize("type", TYPES)
def test_two_and_four_warps_share_a_tile(fibers, type, n_groups, n_blocks):
    """As where the GPU has room for two blocks: 12 groups of tiles shared by two warps each, 10 by four."""
    n = 16 * n_groups * (2 if type == "int4" else 1)
    product = Product.random(n, 320, 3, type)
    y, bound = product.sums()
    launches = []
    fibers.emulator.configure(checks=True, n_sms=1)
    fibers.emulator.set_interpreter(launches.append)  # records, and writes nothing
    assert np.isnan(product.run(fibers, LOGITS)).all()
    assert launches[0]["grid"] == (n_blocks, 1, 1)
    fibers.emulator.set_interpreter(None)
    check(product.run(fibers, LOGITS), y, bound, bf16=False)


@pytest.mark.parametrize("type", TYPES)
def test_many_rows(cuda, type):
    """Enough tiles that each has one warp, as of logits; the last block is not full."""
    product = Product.random(16600, 128, 2, type)
    y, bound = product.sums()
    check(product.run(cuda, LOGITS), y, bound, bf16=False)


@pytest.mark.parametrize("n_tokens", [1, 3, 12, 32])
@pytest.mark.parametrize("type", TYPES)
def test_norm(cuda, everywhere, type, n_tokens):
    product = Product.random(48, 320, n_tokens, type, norm=True, bias=True)
    got = everywhere(lambda: product.run(cuda))
    check(got, *product.sums())
    if product.of_bytes:
        return
    # Rounding x times the norm's weights is one more rounding of each term.
    y, bound = product.sums(rounded=False)
    scale = 1 / np.sqrt((product.x.astype(float) ** 2).mean(axis=1, keepdims=True))
    exact = Product(np.abs(product.x * product.norm), product.packed, product.order)
    check(got, y, bound + U_BF16 * scale * exact.sums()[1] * 2.0**23 / (320 / 16 + 16))


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_residual(cuda, everywhere, bias, in_place):
    product = Product.random(40, 256, 5, "bf16", bias=bias, residual=True)
    y, bound = product.sums()
    wanted = y + product.residual
    check(
        everywhere(lambda: product.run(cuda, bound=8, in_place=in_place)),
        wanted,
        bound + abs(wanted) * 2**-23,
    )


@pytest.mark.parametrize("type", TYPES)
def test_logits(cuda, everywhere, type):
    product = Product.random(100, 448, 3, type, norm=True)
    y, bound = product.sums()
    check(everywhere(lambda: product.run(cuda, LOGITS, bound=4)), y, bound, bf16=False)


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_gated(cuda, everywhere, function, type):
    product = Product.random(96, 192, 6, type, order=gated_order(96), norm=True, bias=True)
    product.x[0] *= 16  # gates far from 0, once the norm's weights are as large
    product.norm *= 4
    got = everywhere(lambda: product.run(cuda, GATED, bound=8, function=FUNCTIONS[function]))
    check_gated(got, product, function)


HEADS = {
    "grouped": (4, 2, 64, 64),
    "wide": (2, 1, 128, 128),
    "partly": (2, 2, 48, 32),
    "not rotated": (1, 1, 32, 0),
}


@pytest.mark.parametrize("n_tokens", [1, 7, 30])
@pytest.mark.parametrize("shape", HEADS.values(), ids=HEADS)
def test_qkv(cuda, everywhere, shape, n_tokens):
    """Tokens of three sequences, in pages that lie anywhere."""
    rng = np.random.default_rng(n_tokens)
    seqs = np.sort(rng.integers(0, 3, n_tokens))
    positions = np.concatenate([[20, 63, 90][s] + np.arange((seqs == s).sum()) for s in range(3)])
    pages = rng.permutation(14)[:12].reshape(3, 4)
    heads = Heads(*shape, positions, seqs, pages)
    product = Product.random(heads.n, 128, n_tokens, "bf16", order=heads.order, norm=True, bias=True)
    heads.check(everywhere(lambda: heads.run(cuda, product, n_tokens + 1)), product)


@pytest.mark.parametrize("type", ["int8", "int4"])
def test_qkv_quantized(cuda, everywhere, type):
    heads = Heads(2, 1, 64, 64, np.array([31, 32]), np.array([0, 0]), np.array([[2, 0]]))
    product = Product.random(heads.n, 192, 2, type, order=heads.order)
    heads.check(everywhere(lambda: heads.run(cuda, product, 2)), product)


@pytest.mark.parametrize("type", TYPES)
def test_tokens_do_not_see_each_other(cuda, type):
    """A token has the same bits in every bucket, whatever stands beside it."""
    product = Product.random(64, 896, 32, type, norm=True)  # k in stretches of another length for each number
    product.x[20], product.x[30, 7] = np.nan, np.inf
    whole = product.run(cuda, LOGITS)
    assert np.isnan(whole[20]).all() and not np.isfinite(whole[30]).any()
    assert np.isfinite(np.delete(whole, [20, 30], axis=0)).all()
    for n in (1, 4, 5, 9, 16):
        few = Product(product.x[:n], product.packed, product.order, product.norm)
        np.testing.assert_array_equal(few.run(cuda, LOGITS), whole[:n])


@pytest.mark.parametrize("end", ["no rows", "all rows"])
def test_count_of_the_step(cuda, end):
    """The count in device memory rules, not the bound."""
    n_tokens = {"no rows": 0, "all rows": 3}[end]
    product = Product.random(32, 128, n_tokens, "bf16", norm=True)
    assert product.run(cuda, bound=3).shape == (n_tokens, 32)


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("n_tokens", [1, 32])
def test_no_bank_conflicts(fibers, type, n_tokens):
    fibers.emulator.configure(count_banks=True)
    fibers.emulator.counters()
    Product.random(256, 320, n_tokens, type, norm=True).run(fibers)
    counted = fibers.emulator.counters()
    assert counted["shared wavefronts"] > 0
    assert counted.get("extra shared wavefronts", 0) == 0, counted


def test_extreme_weights(cuda):
    """All codes of int8 and int4, negative minima, scales that float16 holds only as subnormal numbers."""
    k = 256
    for type, spread in [("int8", 1.0), ("int4", 1.0), ("int8", 2.0**-15), ("int4", 2.0**-15)]:
        weights = np.linspace(-spread, spread, k, dtype=np.float32)[None].repeat(16, 0)
        product = Product(Product.random(16, k, 1, type, seed=3).x, pack(weights, type), np.arange(16))
        y, bound = product.sums()
        check(product.run(cuda, LOGITS), y, bound, bf16=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": None}, "linear: x is missing"),
        ({"out": None}, "linear: out is missing"),
        ({"end": 7}, "linear: end is 7, wanted 0 to 3"),
        ({"k": 96}, "linear: weight has k = 96, wanted a positive multiple of 64"),
        ({"end": LOGITS}, "linear: logits is missing"),
        ({"end": GATED, "n": 24}, "linear: rows of a gated weight is 24, wanted a positive multiple of 16"),
        ({"norm_weight": True}, "linear: norm_eps is 0, wanted above 0"),
        ({"end": 3}, "linear: qkv has 0 heads of q and 0 of k and v"),
        ({"type": "int8"}, "linear: weight must have scales if and only if it is quantized"),
    ],
)
def test_refuses(fibers, change, message):
    cuda = fibers
    weight = [getattr(cuda.WeightType, change.get("type", "bf16")), change.get("n", 32), change.get("k", 64),
              cuda.DeviceArray(1 << 14), None]  # fmt: skip
    good = {"x": put(cuda, np.zeros((1, 64)), "bf16"), "out": room(cuda, 1, 32, kind="bf16"),
            "weight": tuple(weight), "rows": rows(cuda, 1)}  # fmt: skip
    change = {name: value for name, value in change.items() if name not in ("type", "n", "k")}
    if change.get("norm_weight"):
        change["norm_weight"] = put(cuda, np.ones(64), "float32")
    with pytest.raises(ValueError, match=message):
        call(cuda, "linear", 1, **(good | change))


def test_workspace_is_checked(fibers):
    product = Product.random(16, 64, 9, "int8")
    for given, n_bytes in [({"workspace": None}, 0), ({"workspace_bytes": 999}, 999)]:
        with pytest.raises(ValueError, match=f"linear: workspace has {n_bytes} bytes, wanted 7168"):
            product.run(fibers, **given)
