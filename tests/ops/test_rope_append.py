from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from harness import PAGE, bits, make_cached, poisoned, rows_step, stored, tokens

import reference
from cases import ROPE_APPEND, AttentionCase
from lanner import _core
from reference import U


def rotated(x: np.ndarray, table: np.ndarray) -> np.ndarray:
    """x (T, heads, D) float32, each product and difference rounded once: what a cache is given to store."""
    half = x.shape[-1] // 2
    a, b, cos, sin = x[..., :half], x[..., half:], table[:, None, :half], table[:, None, half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


@pytest.mark.parametrize("case", ROPE_APPEND, ids=str)
def test_rotates_queries_and_caches_keys_and_values(case: AttentionCase) -> None:
    rng = np.random.default_rng(case.seed)
    made = make_cached(case)
    n, dim, heads, kv_heads = case.sequences[0][1], case.head_dim, case.n_heads, case.n_kv_heads
    qkv = rng.standard_normal((n, heads + 2 * kv_heads, dim)).astype(np.float32)
    inv_freq = 10000.0 ** (-np.arange(0, dim, 2) / dim)
    table = reference.rope_table(np.arange(n), inv_freq).astype(np.float32)
    after = qkv.copy()
    step = made.step([(0, n)])
    _core.ops.rope_append(
        step, qkv=tokens(after.reshape(n, -1)), table=tokens(table), cache=made.cache, layer=0, n_heads=heads
    )
    # Two products and their sum: each rounds once.
    wanted, half = reference.rotate(qkv[:, :heads], table), dim // 2
    size = np.abs(qkv[:, :heads])
    size = np.concatenate([size[..., :half] + size[..., half:]] * 2, axis=-1)
    assert (np.abs(after[:, :heads] - wanted) <= 2.1 * U * size).all()
    np.testing.assert_array_equal(bits(after[:, heads:]), bits(qkv[:, heads:]))

    k = stored(rotated(qkv[:, heads : heads + kv_heads], table), case.kv_format)
    v = stored(qkv[:, heads + kv_heads :], case.kv_format)
    made.q = [after[:, :heads]]
    wanted = reference.attention(made.q[0], k, v, np.arange(n), 0.5).out
    np.testing.assert_allclose(made.attend([(0, n)], 0.5), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rot_dim", [2, 6, 16, 18, 20])
def test_a_narrow_table_rotates_the_first_dimensions(rot_dim: int) -> None:
    """Whole heads of a rotation by nothing beyond, to the bit: x * 1 - y * 0 is x."""
    rng = np.random.default_rng(rot_dim)
    case, n = AttentionCase(4, 2, 20, ((40, 40),), "f32"), 40
    qkv = rng.standard_normal((n, 8, 20)).astype(np.float32)
    inv_freq = 10000.0 ** (-np.arange(0, rot_dim, 2) / rot_dim)
    table = reference.rope_table(np.arange(n), inv_freq, 1.25).astype(np.float32)
    made, after = make_cached(case), qkv.copy()
    _core.ops.rope_append(made.step([(0, n)]), qkv=tokens(after.reshape(n, -1)), table=tokens(table),
                          cache=made.cache, layer=0, n_heads=4)  # fmt: skip
    alone = rotated(qkv[:, :4, :rot_dim], table)
    np.testing.assert_array_equal(bits(after[:, :4, :rot_dim]), bits(alone))
    np.testing.assert_array_equal(bits(after[:, :4, rot_dim:]), bits(qkv[:, :4, rot_dim:]))
    np.testing.assert_allclose(after[:, :4], reference.rotate(qkv[:, :4], table), rtol=1e-5, atol=1e-6)
    k = np.concatenate([rotated(qkv[:, 4:6, :rot_dim], table), qkv[:, 4:6, rot_dim:]], axis=-1)
    other = make_cached(case)
    other.append([(0, n)], [k], [qkv[:, 6:]])
    made.q = other.q = [after[:, :4]]
    np.testing.assert_array_equal(bits(made.attend([(0, n)], 0.5)), bits(other.attend([(0, n)], 0.5)))


@pytest.mark.parametrize("kv_format", ["f16", "f32", "q8"])
def test_every_slot_holds_its_own_value(kv_format: str) -> None:
    # Queries of zeros weigh 64 positions alike, and position j is alone in column j: the mean of column j is
    # value j / 64, exactly.
    case = AttentionCase(1, 1, 64, ((64, 64),), kv_format)
    made = make_cached(case)
    values = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    values[:12] = (0, -0.0, 6e-8, 3e-8, 2.98e-8, -1e-7, 6.09e-5, 6.11e-5, 65504, 65519, 2049, 2051)
    made.append([(0, 64)], [np.zeros((64, 1, 64), np.float32)], [np.diag(values)[:, None]])
    made.q = [np.zeros((64, 1, 64), np.float32)]
    wanted = np.diagonal(stored(np.diag(values), kv_format)).astype(np.float32)
    np.testing.assert_array_equal(made.attend([(63, 64)], 1.0)[0, 0], wanted / 64)


def test_layers_and_heads_do_not_overlap() -> None:
    n_layers, kv_heads, dim, n_pages = 3, 2, 20, 4
    cache = _core.KvCache("f16", n_layers, n_pages, kv_heads, dim)
    rng = np.random.default_rng(1)
    n = PAGE * n_pages
    step = _core.Step(n, 1, 1, n_pages)
    step.n_tokens, step.n_seqs = n, 1
    step.positions[:] = np.arange(n)
    step.seq_starts[:], step.kv_lens[0] = (0, n), n
    step.block_tables[0] = (2, 0, 3, 1)
    table = np.zeros((n, dim), np.float32)
    table[:, : dim // 2] = 1
    qkv = rng.standard_normal((n_layers, n, 3 * kv_heads, dim)).astype(np.float32)
    for layer in range(n_layers):
        _core.ops.rope_append(step, qkv=tokens(qkv[layer].reshape(n, -1)), table=tokens(table), cache=cache,
                              layer=layer, n_heads=kv_heads)  # fmt: skip
    for layer in range(n_layers):
        q, k, v = np.split(qkv[layer], 3, axis=1)
        out = poisoned(n, kv_heads * dim)
        _core.ops.attention(step, q=tokens(qkv[layer].reshape(n, -1)), out=tokens(out), cache=cache,
                            layer=layer, n_heads=kv_heads, scale=0.3)  # fmt: skip
        wanted = reference.attention(q, stored(k, "f16"), stored(v, "f16"), np.arange(n), 0.3).out
        np.testing.assert_allclose(out.reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"qkv": tokens(poisoned(2, 79))}, ValueError, "rope_append: qkv has 79 columns, wanted 80"),
        (
            {"table": tokens(poisoned(2, 0))},
            ValueError,
            "table has 0 columns, wanted an even number up to 16",
        ),
        (
            {"table": tokens(poisoned(2, 7))},
            ValueError,
            "table has 7 columns, wanted an even number up to 16",
        ),
        ({"table": tokens(poisoned(2, 18))}, ValueError, "table has 18 columns, wanted an even number up to"),
        ({"table": tokens(poisoned(1, 16))}, ValueError, "rope_append: table has 1 rows, the step has 2"),
        ({"layer": 1}, ValueError, "rope_append: layer is 1, the cache has 1"),
        ({"layer": -1}, ValueError, "rope_append: layer is -1, the cache has 1"),
        ({"n_heads": 0}, ValueError, "rope_append: n_heads is 0, wanted a positive number"),
        ({"n_heads": 4}, ValueError, "rope_append: qkv has 80 columns, wanted 96"),
        (
            {"cache": _core.KvCache("f16", 1, 1, 1, 15)},
            ValueError,
            "rope_append: qkv has 80 columns, wanted 75",
        ),
        ({"cache": None}, TypeError, "rope_append: cache is missing"),
        ({"cache": "f16"}, TypeError, "rope_append: cache is a str"),
        ({"scale": 1.0}, TypeError, r"rope_append: unexpected argument among .*scale"),
    ],
)
def test_refuses(change: dict[str, object], error: type[Exception], message: str) -> None:
    good = {"qkv": tokens(np.ones((2, 80), np.float32)), "table": tokens(np.ones((2, 16), np.float32)),
            "cache": _core.KvCache("f16", 1, 1, 1, 16), "layer": 0, "n_heads": 3}  # fmt: skip
    with pytest.raises(error, match=message):
        _core.ops.rope_append(rows_step(2), **(good | change))


def test_head_dim_beyond_the_largest_is_refused() -> None:
    """In a child: a kernel that believed it would write past its buffers."""
    code = """
import numpy as np
from lanner import _core
from harness import rows_step, tokens
qkv, table = (tokens(np.ones((1, n), np.float32)) for n in (3 * 4096, 4096))
cache = _core.KvCache("f32", 1, 1, 1, 4096)
_core.ops.rope_append(rows_step(1), qkv=qkv, table=table, cache=cache, layer=0, n_heads=1)
"""
    paths = f"import sys; sys.path[:0] = {sys.path!r}\n"
    child = subprocess.run([sys.executable, "-c", paths + code], capture_output=True, text=True, check=False)
    assert "ValueError: rope_append: head_dim is 4096, wanted at most 512" in child.stderr, child.returncode


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("q4_0", 1, 1, 1, 16), "KvCache: format is q4_0, wanted f16, f32 or q8"),
        (("q8_0", 1, 1, 1, 16), "KvCache: format is q8_0, wanted f16, f32 or q8"),
        (("f16", 0, 1, 1, 16), "KvCache: layers, pages, heads and head_dim are 0, 1, 1, 16, wanted positive"),
        (("f16", 1, 1, -1, 16), "are 1, 1, -1, 16"),
    ],
)
def test_cache_refuses(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _core.KvCache(*arguments)
