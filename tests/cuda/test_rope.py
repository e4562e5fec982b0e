"""rope_table and rope_append: angles without a lost bit, and where keys and values lie in the pages."""

from __future__ import annotations

import numpy as np
import pytest

import reference
from reference import U
from values import U_BF16, as_bf16, call, put, room, rows

PAGE = 32


def rope_table(cuda, positions, inv_freq, n_rows=None, factor=1.0):
    n, half = len(positions), len(inv_freq)
    bound = n_rows or n
    given = np.zeros(bound, np.int32)
    given[:n] = positions
    out = room(cuda, bound, 2 * half, kind="float32")
    call(cuda, "rope_table", bound, positions=put(cuda, given, "int32"), cos_sin=out, half=half,
         factor=factor, inv_freq=put(cuda, inv_freq, "float64"), rows=rows(cuda, n))  # fmt: skip
    assert out.is_untouched(n)
    return out.numpy()[:n]


@pytest.mark.parametrize("half", [1, 32, 64, 130])
@pytest.mark.parametrize("theta", [1e4, 5e5])
def test_angles(cuda, everywhere, half, theta):
    positions = [0, 1, 2, 3, 5, 100, 4095, 31337, 131071, 131072, 1 << 21]
    inv_freq = theta ** (-np.arange(half) / half)
    got = everywhere(lambda: rope_table(cuda, positions, inv_freq, len(positions) + 2))
    wanted = reference.rope_table(np.array(positions), inv_freq)
    assert np.abs(got - wanted).max() < 1.5e-7


def test_every_quarter_turn_and_a_factor(cuda):
    inv_freq = np.concatenate([np.linspace(0, 7, 400), np.arange(40) * np.pi / 4])
    got = rope_table(cuda, [1], inv_freq, factor=1.5)
    np.testing.assert_allclose(got, reference.rope_table(np.array([1]), inv_freq, 1.5), atol=3e-7, rtol=0)


class Heads:
    """qkv (T, H + 2 KH, D) of tokens at positions of sequences, and pages in an order of their own."""

    def __init__(self, heads, dim, rope_dim, lengths, seed=0):
        rng = np.random.default_rng(seed)
        self.n_heads, self.n_kv_heads = heads
        self.dim, self.rope_dim = dim, rope_dim
        self.positions = np.concatenate([np.arange(a, b) for a, b in lengths]).astype(np.int32)
        self.seqs = np.repeat(np.arange(len(lengths)), [b - a for a, b in lengths]).astype(np.int32)
        self.n = len(self.seqs)
        self.max_pages = -(-max(b for _, b in lengths) // PAGE) + 1
        self.n_pages = len(lengths) * self.max_pages
        self.tables = rng.permutation(self.n_pages).reshape(len(lengths), -1).astype(np.int32)
        self.qkv = as_bf16(
            rng.standard_normal((self.n, self.n_heads + 2 * self.n_kv_heads, dim)).astype(np.float32)
        )
        inv_freq = 1e4 ** (-np.arange(0, rope_dim, 2) / max(rope_dim, 1))
        self.table = reference.rope_table(self.positions, inv_freq).astype(np.float32)

    def run(self, cuda, gap=0):
        """qkv afterwards, and the cache (pages, K or V, KH, 32, D); `gap` elements lie between pages."""
        bound, per_page = self.n + 2, 2 * self.n_kv_heads * PAGE * self.dim + gap
        qkv = np.zeros((bound, *self.qkv.shape[1:]), np.float32)
        qkv[: self.n] = self.qkv
        on_gpu = put(cuda, qkv, "bf16")
        cache = room(cuda, self.n_pages, per_page, kind="bf16")
        call(cuda, "rope_append", bound, qkv=on_gpu, cache=cache, page_bytes=2 * per_page,
             cos_sin=put(cuda, self.table, "float32") if self.rope_dim else None, rope_dim=self.rope_dim,
             n_heads=self.n_heads, n_kv_heads=self.n_kv_heads, head_dim=self.dim,
             positions=put(cuda, self.positions, "int32"), token_seqs=put(cuda, self.seqs, "int32"),
             block_tables=put(cuda, self.tables, "int32"), max_pages=self.max_pages,
             rows=rows(cuda, self.n))  # fmt: skip
        got = on_gpu.numpy()
        assert not got[self.n :].any()
        raw = cache.numpy()
        assert np.isnan(raw[:, per_page - gap :]).all()
        pages = raw[:, : per_page - gap].reshape(self.n_pages, 2, self.n_kv_heads, PAGE, self.dim)
        return got[: self.n], pages

    def check(self, qkv, pages):
        n_heads, end = self.n_heads, self.n_heads + self.n_kv_heads
        rotated = reference.rotate(self.qkv, self.table) if self.rope_dim else self.qkv.astype(np.float64)
        size = np.abs(self.qkv) + np.roll(np.abs(self.qkv), self.rope_dim // 2, axis=-1)
        size = np.maximum(size, np.abs(self.qkv) + np.roll(np.abs(self.qkv), -(self.rope_dim // 2), axis=-1))
        bound = U_BF16 * np.abs(rotated) + 4 * U * size  # what is rotated adds two products
        assert (np.abs(qkv - rotated) <= bound)[:, :n_heads].all()
        np.testing.assert_array_equal(qkv[:, n_heads:], self.qkv[:, n_heads:])
        page = self.tables[self.seqs, self.positions // PAGE]
        stored = pages[page, :, :, self.positions % PAGE]  # (T, 2, KH, D)
        assert (np.abs(stored[:, 0] - rotated[:, n_heads:end]) <= bound[:, n_heads:end]).all()
        np.testing.assert_array_equal(stored[:, 1], self.qkv[:, end:])
        # Nothing else was written.
        written = np.zeros(pages.shape, bool)
        written[page, :, :, self.positions % PAGE] = True
        assert np.isnan(pages[~written]).all()


@pytest.mark.parametrize(
    ("heads", "dim", "rope_dim"),
    [((4, 2), 64, 64), ((3, 1), 128, 128), ((9, 3), 64, 16), ((2, 1), 80, 32), ((1, 1), 256, 256),
     ((4, 4), 96, 96), ((2, 2), 64, 0), ((0, 2), 64, 0)],
)  # fmt: skip
def test_heads(cuda, everywhere, heads, dim, rope_dim):
    case = Heads(heads, dim, rope_dim, ((30, 35), (0, 3), (64, 65)))
    case.check(*everywhere(lambda: case.run(cuda)))


def test_decode_of_many_sequences(cuda, everywhere):
    case = Heads((8, 2), 64, 64, tuple((n, n + 1) for n in range(0, 160, 7)))
    case.check(*everywhere(lambda: case.run(cuda, gap=64)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_dim": 24}, "rope_append: head_dim is 24, wanted a positive multiple of 16"),
        ({"rope_dim": 40}, "rope_append: rope_dim is 40, wanted 0 or a multiple of 16 up to 64"),
        ({"rope_dim": 80}, "rope_append: rope_dim is 80, wanted 0 or a multiple of 16 up to 64"),
        ({"rope_dim": 64}, "rope_append: cos_sin is missing"),
        ({"page_bytes": 8176}, "rope_append: page_bytes is 8176, wanted at least 8192"),
        ({"cache": None}, "rope_append: cache is missing"),
        ({"n_kv_heads": 0}, "rope_append: n_kv_heads is 0, wanted a positive multiple of 1"),
    ],
)
def test_refuses(fibers, change, message):
    given = put(fibers, np.zeros(8192), "int32").array
    good = dict.fromkeys(("qkv", "cache", "positions", "token_seqs", "block_tables"), given)
    good |= {"page_bytes": 8192, "n_heads": 1, "n_kv_heads": 1, "head_dim": 64, "max_pages": 1}
    with pytest.raises(ValueError, match=message):
        fibers.ops.rope_append({"n_tokens": 1}, rows=rows(fibers, 1), **(good | change))
