"""Operations on rows, against float64: embed, gather_rows, norms, and what makes each element of others."""

from __future__ import annotations

import numpy as np
import pytest

import reference
from lanner.cuda.pack import pack, unpack_rounded
from reference import U
from values import U_BF16, as_bf16, call, put, room, rows, to_bf16

EPS = 1e-5


def near(got, wanted, relative, absolute=0.0):
    """`relative` is the error before the result is rounded to bf16."""
    bound = (relative * (1 + U_BF16) + U_BF16) * np.abs(wanted) + absolute + 1e-40
    np.testing.assert_array_less(np.abs(got - wanted), bound)


def padded(x, n_rows):
    return np.concatenate([x, np.zeros((n_rows - len(x), *x.shape[1:]), x.dtype)])


def run(cuda, op, shape, n_rows=None, *, kind="bf16", **args):
    """out of an operation; the host knows of more rows than there are."""
    bound = n_rows or shape[0] + 3
    given = {
        name: put(cuda, padded(x, bound) if per_row else x, of) if of and x is not None else x
        for name, (x, of, per_row) in args.items()
    }
    out = room(cuda, bound, shape[1], kind=kind)
    call(cuda, op, bound, out=out, rows=rows(cuda, shape[0]), **given)
    assert out.is_untouched(shape[0])
    return out.numpy()[: shape[0]]


def plain(x):
    return x, "", False


# ---- embed and gather_rows -----------------------------------------------------------------------


@pytest.mark.parametrize("fmt", ["bf16", "int8", "int4"])
@pytest.mark.parametrize(("vocab_size", "k"), [(16, 64), (50, 192), (37, 2112)])
def test_embed(cuda, everywhere, fmt, vocab_size, k):
    rng = np.random.default_rng(k)
    packed = pack(rng.standard_normal((vocab_size, k)).astype(np.float32), fmt)
    ids = np.concatenate([[0, vocab_size - 1, 7, 8], rng.integers(0, vocab_size, 5)]).astype(np.int32)
    codes = put(cuda, packed.codes, "uint8").array
    scales = None if packed.scales is None else put(cuda, packed.scales, "float16").array
    weight = (getattr(cuda.WeightType, fmt), vocab_size, k, codes, scales)
    got = everywhere(
        lambda: run(cuda, "embed", (9, k), token_ids=(ids, "int32", True), weight=plain(weight))
    )
    np.testing.assert_array_equal(got, unpack_rounded(packed)[ids])


@pytest.mark.parametrize("cols", [8, 96, 2056])
def test_gather_rows(cuda, everywhere, cols):
    x = np.random.default_rng(cols).standard_normal((7, cols)).astype(np.float32)
    picked = np.array([6, 0, 3, 3], np.int32)
    got = everywhere(
        lambda: run(cuda, "gather_rows", (4, cols), x=(x, "bf16", False), cols=plain(cols),
                    output_rows=(picked, "int32", True))  # fmt: skip
    )
    np.testing.assert_array_equal(got, as_bf16(x)[picked])


# ---- norms ---------------------------------------------------------------------------------------

# One to eight times 8 columns a thread, and a few columns on either side of each border.
COLS = (8, 64, 576, 2040, 2048, 2056, 4096, 5000, 8192, 16384)


def norm_inputs(cols, n_rows=5):
    rng = np.random.default_rng(cols)
    x = rng.standard_normal((n_rows, cols)) * 10 ** rng.uniform(-4, 4, (n_rows, 1))
    return as_bf16(x.astype(np.float32)), rng.standard_normal(cols).astype(np.float32)


def norm_error(cols):
    """Of the sum of squares: a rounding for each column of a thread, ten of the tree; then the root."""
    return reference.gamma((cols / 256 + 14) / 2 + 8)


@pytest.mark.parametrize("cols", COLS)
def test_rms_norm(cuda, everywhere, cols):
    x, weight = norm_inputs(cols)

    def with_weight(weight):
        return run(cuda, "rms_norm", x.shape, x=(x, "bf16", True), cols=plain(cols), eps=plain(EPS),
                   weight=(weight, "float32", False))  # fmt: skip

    near(everywhere(lambda: with_weight(weight)), reference.rms_norm(x, weight, EPS), norm_error(cols))
    near(with_weight(None), reference.rms_norm(x, np.ones(cols), EPS), norm_error(cols))


def test_rms_norm_in_place_and_nan_in_its_row(cuda):
    x, weight = norm_inputs(640)
    x[2, 77] = np.nan
    value = put(cuda, x, "bf16")
    call(cuda, "rms_norm", 5, x=value, out=value, weight=put(cuda, weight, "float32"), cols=640, eps=EPS,
         rows=rows(cuda, 5))  # fmt: skip
    got, others = value.numpy(), [0, 1, 3, 4]
    assert np.isnan(got[2]).all()
    near(got[others], reference.rms_norm(x[others], weight, EPS), norm_error(640))


@pytest.mark.parametrize("cols", COLS)
@pytest.mark.parametrize("biased", [False, True])
def test_layer_norm(cuda, everywhere, cols, biased):
    """The mean is off by a part of the largest element; so is what is left of each."""
    x, weight = norm_inputs(cols)
    x += np.abs(x).max(axis=-1, keepdims=True) * np.array([[0], [1], [-1], [0], [3]], np.float32)
    x = as_bf16(x)
    bias = weight[::-1] * 0.1 if biased else None
    got = everywhere(
        lambda: run(cuda, "layer_norm", x.shape, x=(x, "bf16", True), cols=plain(cols), eps=plain(EPS),
                    weight=(weight, "float32", False), bias=(bias, "float32", False))  # fmt: skip
    )
    wanted = reference.layer_norm(x, weight, bias, EPS)
    deviation = np.sqrt(x.astype(np.float64).var(axis=-1, keepdims=True) + EPS)
    slip = norm_error(cols) * 2 * np.abs(x).mean(axis=-1, keepdims=True) / deviation
    absolute = slip * (1 + slip) * np.abs(weight) * (1 + np.abs(wanted)) + 4 * U * np.abs(wanted)
    near(got, wanted, norm_error(cols), absolute + (0 if bias is None else 4 * U * np.abs(bias)))


@pytest.mark.parametrize(("heads", "dim"), [((3, 1), 64), ((4, 2), 128), ((2, 2), 96), ((1, 1), 256), ((9, 3), 80),
                                            ((2, 1), 512), ((5, 1), 8)])  # fmt: skip
def test_head_norm(cuda, everywhere, heads, dim):
    n_heads, n_kv_heads = heads
    rng = np.random.default_rng(dim)
    x = as_bf16(rng.standard_normal((4, n_heads + 2 * n_kv_heads, dim)).astype(np.float32) * 3)
    q_weight, k_weight = rng.standard_normal((2, dim)).astype(np.float32)

    def normed():
        qkv = put(cuda, padded(x, 6), "bf16")
        call(cuda, "head_norm", 6, qkv=qkv, q_weight=put(cuda, q_weight, "float32"), eps=EPS,
             k_weight=put(cuda, k_weight, "float32"), n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=dim,
             rows=rows(cuda, 4))  # fmt: skip
        return qkv.numpy()

    got, end = everywhere(normed), n_heads + n_kv_heads
    near(got[:4, :n_heads], reference.rms_norm(x[:, :n_heads], q_weight, EPS), norm_error(dim))
    near(got[:4, n_heads:end], reference.rms_norm(x[:, n_heads:end], k_weight, EPS), norm_error(dim))
    np.testing.assert_array_equal(got[:4, end:], x[:, end:])
    assert not got[4:].any()


@pytest.mark.parametrize(("q_cols", "k_cols"), [(64, 64), (4096, 1024), (2056, 8)])
def test_qk_norm(cuda, everywhere, q_cols, k_cols):
    rng = np.random.default_rng(q_cols)
    x = as_bf16(rng.standard_normal((4, q_cols + 2 * k_cols)).astype(np.float32) * 3)
    q_weight = rng.standard_normal(q_cols).astype(np.float32)
    k_weight = rng.standard_normal(k_cols).astype(np.float32)

    def normed():
        qkv = put(cuda, padded(x, 6), "bf16")
        call(cuda, "qk_norm", 6, qkv=qkv, q_weight=put(cuda, q_weight, "float32"), eps=EPS, q_cols=q_cols,
             k_weight=put(cuda, k_weight, "float32"), k_cols=k_cols, rows=rows(cuda, 4))  # fmt: skip
        return qkv.numpy()

    got, end = everywhere(normed), q_cols + k_cols
    near(got[:4, :q_cols], reference.rms_norm(x[:, :q_cols], q_weight, EPS), norm_error(q_cols))
    near(got[:4, q_cols:end], reference.rms_norm(x[:, q_cols:end], k_weight, EPS), norm_error(k_cols))
    np.testing.assert_array_equal(got[:4, end:], x[:, end:])
    assert not got[4:].any()


# ---- elements ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cols", [8, 104, 4096])
def test_add(cuda, everywhere, cols):
    rng = np.random.default_rng(cols)
    a, b = as_bf16(rng.standard_normal((2, 5, cols)).astype(np.float32))
    given = {"a": (a, "bf16", True), "b": (b, "bf16", True), "cols": plain(cols)}
    got = everywhere(lambda: run(cuda, "add", a.shape, **given))
    np.testing.assert_array_equal(got, as_bf16(a + b))
    wanted = a + 0.22 * b.astype(np.float64)
    near(run(cuda, "add", a.shape, **given, factor=plain(0.22)), wanted, 0, 4 * U * (np.abs(a) + np.abs(b)))


@pytest.mark.parametrize("cols", [8, 104, 4096])
def test_add_positions(cuda, everywhere, cols):
    rng = np.random.default_rng(cols)
    x = as_bf16(rng.standard_normal((5, cols)).astype(np.float32))
    table = rng.standard_normal((12, cols)).astype(np.float32)
    positions = np.array([0, 9, 3, 3, 1], np.int32)
    got = everywhere(
        lambda: run(cuda, "add_positions", x.shape, x=(x, "bf16", True), table=(table, "float32", False),
                    positions=(positions, "int32", True), cols=plain(cols), offset=plain(2))  # fmt: skip
    )
    np.testing.assert_array_equal(got, as_bf16(x + table[positions + 2]))


TYPES = [("float32", 0), ("bf16", 1)]


@pytest.mark.parametrize(("kind", "number"), TYPES)
def test_scale_and_softcap(cuda, everywhere, kind, number):
    x = np.random.default_rng(0).standard_normal((5, 264)).astype(np.float32) * np.float32(20)
    x[0, :6] = (0, 1e-6, -1e-3, np.inf, -np.inf, 3e38)
    x = as_bf16(x) if kind == "bf16" else x
    given = {"x": (x, kind, True), "type": plain(number), "cols": plain(264), "kind": kind}
    rounding = U_BF16 if kind == "bf16" else 0
    scaled = everywhere(lambda: run(cuda, "scale", x.shape, **given, factor=plain(0.3)))
    wanted = np.float64(np.float32(0.3)) * x
    np.testing.assert_allclose(scaled, wanted, rtol=(U + rounding) * 1.01, atol=0)
    capped = everywhere(lambda: run(cuda, "softcap", x.shape, **given, cap=plain(30.0)))
    wanted = reference.softcap(x.astype(np.float64), 30)
    # Beyond a quarter of the cap 1 - 2 / (exp + 1) is made of numbers up to 2 and more than 0.24 itself.
    assert (np.abs(capped - wanted) <= (32 * U + rounding) * 1.01 * np.abs(wanted)).all()


def gelu_tanh(x):
    """1 + tanh(u) without cancellation far below 0."""
    return x / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = reference.ACTIVATIONS | {"gelu_tanh": gelu_tanh}
NAMES = ("silu", "gelu", "gelu_tanh", "relu", "tanh", "sigmoid")
EDGES = (0, -0.0, 1e-30, -1e-30, 5, -5, 20, -20, 88, -88, 1e4, -1e4, 3e38, -3e38, np.inf, -np.inf)


@pytest.mark.parametrize("name", NAMES)
def test_activate(cuda, everywhere, name):
    """bf16 has every tenth of a unit of what the functions are accurate to."""
    x = np.concatenate([np.random.default_rng(1).standard_normal(496) * 4, EDGES]).astype(np.float32)
    x = as_bf16(x.reshape(2, 256))
    got = everywhere(
        lambda: run(cuda, "activate", x.shape, x=(x, "bf16", True), cols=plain(256), block=plain(0),
                    function=plain(NAMES.index(name)))  # fmt: skip
    )
    with np.errstate(all="ignore"):
        wanted = ACTIVATIONS[name](x.astype(np.float64))
    wanted = np.where(np.isneginf(x) & np.isnan(wanted), 0, wanted)
    infinite = np.isposinf(wanted) | (wanted > 3.38e38)
    assert (got[infinite] >= 3.3e38).all()
    # -1e4 and below: zero, as the exponential is; the tail of gelu is relative to x^2 / 2 roundings.
    near(got[~infinite], wanted[~infinite], (np.minimum(np.abs(x), 100)[~infinite] ** 2 + 64) * U, 2e-36)


def test_activate_keeps_nan(cuda):
    x = np.full((1, 8), np.nan, np.float32)
    for i in range(len(NAMES)):
        got = run(cuda, "activate", (1, 8), x=(x, "bf16", True), cols=plain(8), block=plain(0), function=plain(i))
        assert np.isnan(got).all()


@pytest.mark.parametrize(("cols", "block"), [(8, 8), (64, 8), (64, 64), (2064, 16), (2064, 2064)])
@pytest.mark.parametrize("name", ["silu", "gelu_tanh"])
def test_gated(cuda, everywhere, cols, block, name):
    x = as_bf16(np.random.default_rng(cols).standard_normal((3, cols // block, 2, block)).astype(np.float32) * 3)
    got = everywhere(
        lambda: run(cuda, "activate", (3, cols), x=(x.reshape(3, -1), "bf16", True), cols=plain(cols),
                    block=plain(block), function=plain(NAMES.index(name)))  # fmt: skip
    )
    gate, up = (x[:, :, i].astype(np.float64).reshape(3, cols) for i in (0, 1))
    near(got, ACTIVATIONS[name](gate) * up, (gate**2 + 64) * U, 2e-36 * np.abs(up))


@pytest.mark.parametrize(
    ("op", "change", "message"),
    [
        ("add", {"cols": 12}, "add: cols is 12, wanted a positive multiple of 8"),
        ("scale", {"cols": 6, "type": 0, "factor": 1.0}, "scale: cols is 6, wanted a positive multiple of 4"),
        ("scale", {"type": 1, "factor": np.inf}, "scale: factor is inf, wanted a finite number"),
        ("softcap", {"type": 0, "cap": 0.0}, "softcap: cap is 0, wanted a positive number"),
        ("activate", {"function": 6}, "activate: function is 6, wanted 0 to 5"),
        ("activate", {"function": 0, "block": 24}, "block is 24, wanted 0 or a multiple of 8 that divides 16"),
        ("rms_norm", {"eps": -1.0}, "rms_norm: eps is -1, wanted a number that is not negative"),
        ("rms_norm", {"cols": 16392}, "rms_norm: cols is 16392, wanted at most 16384"),
        ("rms_norm", {"x": None}, "rms_norm: x is missing"),
        ("layer_norm", {"eps": 1e-5}, "layer_norm: weight is missing"),
        ("gather_rows", {}, "gather_rows: output_rows is missing"),
    ],
)
def test_refuses(fibers, op, change, message):
    value = put(fibers, np.zeros((2, 16)), "bf16").array
    good = {"cols": 16, "rows": rows(fibers, 2), "out": value}
    good |= {"a": value, "b": value} if op == "add" else {"x": value}
    with pytest.raises(ValueError, match=message):
        getattr(fibers.ops, op)({"n_tokens": 2}, **(good | change))


def test_bf16_of_the_tests_is_that_of_numpy_halves():
    x = np.array([1.0, 1.00390625, 1.01171875, -2.5e-40, np.inf], np.float32)
    np.testing.assert_array_equal(to_bf16(x) & 0xFFFF, [0x3F80, 0x3F80, 0x3F82, 0x8003, 0x7F80])
