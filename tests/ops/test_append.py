from __future__ import annotations

import numpy as np
import pytest
from harness import bits, make_cached, poisoned, rows_step, stored, tokens

import reference
from cases import ROPE_APPEND, AttentionCase
from lanner import _core
from reference import U


def append(step: _core.Step, cache: _core.KvCache, kv: np.ndarray, **options: object) -> None:
    given = {"kv": tokens(kv.reshape(len(kv), -1)), "cache": cache, "layer": 0, "n_heads": 0}
    _core.ops.append(step, **(given | options))


@pytest.mark.parametrize("case", ROPE_APPEND, ids=str)
def test_caches_keys_and_values_as_they_are(case: AttentionCase) -> None:
    """What a rotation by cosines of 1 and sines of 0 caches, and what the float64 answer asks for."""
    made = make_cached(case)
    n = case.sequences[0][1]
    wanted = made.attend([(0, n)], 0.5)
    again = make_cached(case)
    again.append([(0, n)], [np.zeros_like(k) for k in again.k], [np.zeros_like(v) for v in again.v])
    qkv = np.concatenate([np.full_like(made.q[0], np.nan), made.k[0], made.v[0]], axis=1)[:n].copy()
    before = qkv.copy()
    append(again.step([(0, n)]), again.cache, qkv, n_heads=case.n_heads)
    np.testing.assert_array_equal(bits(qkv), bits(before))
    np.testing.assert_array_equal(bits(again.attend([(0, n)], 0.5)), bits(wanted))
    k, v = (stored(x[0][:n], case.kv_format) for x in (made.k, made.v))
    exact = reference.attention(made.q[0][:n], k, v, np.arange(n), 0.5).out
    np.testing.assert_allclose(wanted, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kv_format", ["f16", "f32", "q8"])
def test_cross_writes_the_pages_of_cross_tables(kv_format: str) -> None:
    """Two sources, written in steps of a few tokens in any order of positions, then seen whole."""
    case = AttentionCase(6, 2, 20, ((70, 70), (41, 41)), kv_format, causal=False)
    made, other = make_cached(case), make_cached(case)
    wanted = made.attend([(0, 70), (0, 41)], 0.3)
    other.append([(0, 70), (0, 41)], [np.zeros_like(k) for k in other.k], [np.zeros_like(v) for v in other.v])
    for spans in (((40, 70), (0, 1)), ((0, 40), (1, 41))):
        counts = [end - first for first, end in spans]
        step = _core.Step(sum(counts), 2, 1, 1, made.tables.shape[1])
        step.n_tokens, step.n_seqs = sum(counts), 2
        step.seq_starts[:] = np.cumsum([0, *counts])
        step.token_seqs[:] = np.repeat([0, 1], counts)
        step.positions[:] = np.concatenate([np.arange(*span) for span in spans])
        step.cross_lens[:], step.cross_tables[:] = (70, 41), other.tables
        parts = [np.concatenate([made.k[s][a:b], made.v[s][a:b]], axis=1) for s, (a, b) in enumerate(spans)]
        append(step, other.cache, np.concatenate(parts), cross=True)
    np.testing.assert_array_equal(bits(other.attend([(0, 70), (0, 41)], 0.3)), bits(wanted))


def test_codes_of_heads_of_any_size() -> None:
    """A head whose scale would be subnormal is zero; where one element is no number, nothing of it is."""
    made = make_cached(AttentionCase(1, 1, 20, ((40, 1),), "q8"), garbage=False)
    heads = np.random.default_rng(0).standard_normal((40, 1, 20)).astype(np.float32)
    heads[:8] *= np.float32([0, -0.0, 1e-45, 1e-38, 1e-36, 2e-36, 1e30, 3e37])[:, None, None]
    append(made.step([(0, 40)]), made.cache, np.concatenate([np.zeros_like(heads), heads], axis=1))
    made.q = [np.zeros_like(made.q[0])]
    means = np.cumsum(stored(heads, "q8"), axis=0)[:, 0] / np.arange(1, 41)[:, None]
    for n in range(1, 41):
        out, largest = made.attend([(n - 1, n)], 1.0)[0, 0], np.abs(heads[:n]).max()
        np.testing.assert_allclose(out, means[n - 1], rtol=0, atol=(n + 2) * U * largest)
    assert (made.attend([(3, 4)], 1.0) == 0).all()
    for value in (np.nan, np.inf, -np.inf):
        for broken in (0, 1):  # the key, the value
            kv = np.ones((1, 2, 20), np.float32)
            kv[0, broken, 7] = value
            append(made.step([(3, 4)]), made.cache, kv)
            assert np.isfinite(made.attend([(2, 3)], 1.0)).all()
            assert np.isnan(made.attend([(3, 4)], 1.0)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": (1, 40)}, "append: token 1 has position 40 of sequence 0, wanted one below 40 of 0"),
        ({"positions": (0, -1)}, "append: token 0 has position -1 of sequence 0, wanted one below 40 of 0"),
        ({"token_seqs": (1, 1)}, "append: token 1 has position 1 of sequence 1, wanted one below 40 of 0"),
        ({"cross_lens": (0, 65)}, "append: sequence 0 has a cross_len of 65, wanted 1 to 64"),
        ({"cross_tables": ((0, 1), 2)}, "append: cross page 2 of sequence 0 is outside the cache of 2"),
    ],
)
def test_refuses_a_step(change: dict[str, tuple[object, int]], message: str) -> None:
    step = _core.Step(2, 1, 1, 1, 2)
    step.n_tokens, step.n_seqs = 2, 1
    step.positions[:], step.seq_starts[:], step.cross_lens[0], step.cross_tables[0] = (
        (0, 1),
        (0, 2),
        40,
        (1, 0),
    )
    cache, kv = _core.KvCache("f16", 1, 2, 1, 16), np.ones((2, 32), np.float32)
    append(step, cache, kv, cross=True)
    for name, (at, value) in change.items():
        getattr(step, name)[at] = value
    with pytest.raises(ValueError, match=message):
        append(step, cache, kv, cross=True)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kv": tokens(poisoned(2, 79))}, ValueError, "append: kv has 79 columns, wanted 80"),
        ({"kv": tokens(poisoned(1, 80))}, ValueError, "append: kv has 1 rows, the step has 2"),
        ({"layer": 1}, ValueError, "append: layer is 1, the cache has 1"),
        ({"layer": -1}, ValueError, "append: layer is -1, the cache has 1"),
        ({"n_heads": -1}, ValueError, "append: n_heads is -1, wanted a number that is not negative"),
        ({"n_heads": 4}, ValueError, "append: kv has 80 columns, wanted 96"),
        (
            {"cache": _core.KvCache("f16", 1, 1, 2, 513)},
            ValueError,
            "append: head_dim is 513, wanted at most 512",
        ),
        ({"cache": None}, TypeError, "append: cache is missing"),
        ({"table": 1.0}, TypeError, r"append: unexpected argument among .*table"),
    ],
)
def test_refuses(change: dict[str, object], error: type[Exception], message: str) -> None:
    cache = _core.KvCache("f16", 1, 1, 1, 16)
    good = {"kv": tokens(np.ones((2, 80), np.float32)), "cache": cache, "layer": 0, "n_heads": 3}
    with pytest.raises(error, match=message):
        _core.ops.append(rows_step(2), **(good | change))
