"""Rows of the embedding, rows that are picked, and norms, against float64."""

from __future__ import annotations

import numpy as np
import pytest

import reference
from lanner.cuda.pack import pack, unpack_rounded
from reference import U
from rowwise_calls import near, padded, plain, run
from values import as_bf16, call, put, rows

EPS = 1e-5


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
    got = everywhere(lambda: run(cuda, "embed", (9, k), token_ids=(ids, "int32", True), weight=plain(weight)))
    np.testing.assert_array_equal(got, unpack_rounded(packed)[ids])


@pytest.mark.parametrize("cols", [8, 96, 2056])
def test_gather_rows(cuda, everywhere, cols):
    x = np.random.default_rng(cols).standard_normal((7, cols)).astype(np.float32)
    picked = np.array([6, 0, 3, 3], np.int32)
    got = everywhere(
        lambda: run(
            cuda,
            "gather_rows",
            (4, cols),
            x=(x, "bf16", False),
            cols=plain(cols),
            output_rows=(picked, "int32", True),
        )
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
        lambda: run(
            cuda,
            "layer_norm",
            x.shape,
            x=(x, "bf16", True),
            cols=plain(cols),
            eps=plain(EPS),
            weight=(weight, "float32", False),
            bias=(bias, "float32", False),
        )
    )
    wanted = reference.layer_norm(x, weight, bias, EPS)
    deviation = np.sqrt(x.astype(np.float64).var(axis=-1, keepdims=True) + EPS)
    slip = norm_error(cols) * 2 * np.abs(x).mean(axis=-1, keepdims=True) / deviation
    absolute = slip * (1 + slip) * np.abs(weight) * (1 + np.abs(wanted)) + 4 * U * np.abs(wanted)
    near(got, wanted, norm_error(cols), absolute + (0 if bias is None else 4 * U * np.abs(bias)))


HEADS = [((3, 1), 64), ((4, 2), 128), ((2, 2), 96), ((1, 1), 256), ((9, 3), 80), ((2, 1), 512), ((5, 1), 8)]


@pytest.mark.parametrize(("heads", "dim"), HEADS)
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
