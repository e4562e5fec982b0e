from __future__ import annotations

import numpy as np
import pytest
from harness import Cached, bits, make_cached, poisoned, rows_step, stored, tokens

import reference
from cases import ATTENTION, ATTENTION_OPTIONS, AttentionCase
from lanner import _core
from reference import U, gamma


def scale_of(case: AttentionCase) -> float:
    return float(np.float32(1.5 * case.head_dim**-0.5))


def spans_of(case: AttentionCase) -> list[tuple[int, int]]:
    return [(kv - n, kv) for kv, n in case.sequences]


def expected(made: Cached) -> tuple[np.ndarray, np.ndarray]:
    """float64 attention and the bound on the float32 error.

    A score is a chain of D multiply-adds on a query scaled once: E = gamma(D + 2) * sum |q k|; a cap, whose
    slope is at most 1, adds 2 roundings to s and 7 to the result (3 ulp are 6), a bias 1, a scale of q8 1. A
    weight p is
    the exponential of a rounded difference, off by 2 E + (R + 8) U in a range R of scores, once per tile that
    moves the maximum and once per merged chunk. Sum and mix add n positive weights in a chain, and each tile
    adds its reductions: both relative to sum p |v|. The quotient repeats what the sum has.
    """
    case, parts, bounds = made.case, [], []
    for s, (first, end) in enumerate(spans_of(case)):
        k, v = (stored(a[s][:end], case.kv_format) for a in (made.k, made.v))
        r = reference.attention(
            made.q[s][first:end], k, v, np.arange(first, end), scale_of(case), **case.options
        )
        n_tiles = end // 64 + 1
        n_scales = int(case.kv_format == "q8")
        n_roundings = case.head_dim + 2 + 9 * (case.softcap > 0) + (case.reach >= 0) + n_scales
        error = 4 * gamma(n_roundings) * r.score_magnitude
        error = error + ((2 * n_tiles + 2) * (r.score_range + 8) + 2 * end + 24 * n_tiles + 8 + n_scales) * U
        parts.append(r.out)
        bounds.append(error * r.magnitude)
    return np.concatenate(parts), np.concatenate(bounds)


@pytest.mark.parametrize("case", [*ATTENTION, *ATTENTION_OPTIONS], ids=str)
def test_close_to_float64(case: AttentionCase) -> None:
    made = make_cached(case)
    wanted, bound = expected(made)
    assert (np.abs(made.attend(spans_of(case), scale_of(case)) - wanted) <= bound).all()


@pytest.mark.parametrize("garbage", [False, True])
@pytest.mark.parametrize("kv_format", ["f16", "f32", "q8"])
@pytest.mark.parametrize(
    ("n_heads", "n_kv_heads", "head_dim", "length"),
    [(6, 2, 20, 75), (7, 1, 16, 270), (2, 2, 64, 530), (48, 1, 16, 80)],
)
def test_whole_chunked_and_token_by_token_are_the_same_bits(
    n_heads: int, n_kv_heads: int, head_dim: int, length: int, kv_format: str, garbage: bool
) -> None:
    case = AttentionCase(n_heads, n_kv_heads, head_dim, ((length, length),), kv_format)
    made = make_cached(case)
    whole = made.attend([(0, length)], 0.3)
    for chunk in (7, 1):
        fresh = make_cached(
            AttentionCase(n_heads, n_kv_heads, head_dim, ((length, 1),), kv_format), garbage=garbage
        )
        fresh.q, fresh.k, fresh.v = made.q, made.k, made.v
        parts = []
        for first in range(0, length, chunk):
            span = [(first, min(first + chunk, length))]
            fresh.append(span, made.k, made.v)
            parts.append(fresh.attend(span, 0.3))
        np.testing.assert_array_equal(bits(np.concatenate(parts)), bits(whole), err_msg=f"chunks of {chunk}")


@pytest.mark.parametrize("kv_format", ["f16", "f32", "q8"])
def test_sequences_of_a_step_do_not_see_each_other(kv_format: str) -> None:
    case = AttentionCase(6, 2, 20, ((1, 1), (513, 1), (33, 33), (64, 1), (300, 4), (258, 5)), kv_format)
    made = make_cached(case)
    spans = spans_of(case)
    together, at = made.attend(spans, 0.3), 0
    for s, (first, end) in enumerate(spans):
        alone = made.attend([(first, end) if i == s else (0, 0) for i in range(len(spans))], 0.3)
        np.testing.assert_array_equal(bits(together[at : at + end - first]), bits(alone))
        at += end - first


@pytest.mark.parametrize("n_tokens", range(1, 41))
def test_the_number_of_queries_changes_no_bit(n_tokens: int) -> None:
    made = make_cached(AttentionCase(6, 2, 16, ((300, 40),)))
    whole = made.attend([(260, 300)], 0.3)
    np.testing.assert_array_equal(
        bits(made.attend([(300 - n_tokens, 300)], 0.3)), bits(whole[40 - n_tokens :])
    )
    np.testing.assert_array_equal(bits(made.attend([(260, 260 + n_tokens)], 0.3)), bits(whole[:n_tokens]))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kv_format", ["f16", "f32", "q8"])
def test_later_positions_are_not_seen(kv_format: str, value: float) -> None:
    """Not even as 0 * NaN: a weight of zero is no reason to read a value."""
    made = make_cached(AttentionCase(6, 2, 20, ((70, 70),), kv_format))
    clean = made.attend([(0, 70)], 0.3)
    made.k[0][50:], made.v[0][50:] = value, value
    made.append([(50, 70)], made.k, made.v)
    np.testing.assert_array_equal(bits(made.attend([(0, 70)], 0.3)[:50]), bits(clean[:50]))


@pytest.mark.parametrize("sign", [-1, 1])
def test_scores_of_any_size(sign: int) -> None:
    """Differences far beyond the range of exp: one position takes all, nothing overflows."""
    made = make_cached(AttentionCase(2, 1, 16, ((300, 1),), "f32"), garbage=False)
    made.k[0] = np.broadcast_to(np.arange(len(made.k[0]))[:, None, None] % 97 * 40.0, made.k[0].shape).astype(
        "f4"
    )
    made.append([(0, 300)], made.k, made.v)
    made.q = [np.full_like(made.q[0], sign)]
    winners = [j for j in range(300) if j % 97 == (96 if sign > 0 else 0)]
    wanted = made.v[0][winners, 0].mean(axis=0)
    np.testing.assert_allclose(
        made.attend([(299, 300)], 1.0)[0], np.stack([wanted] * 2), rtol=1e-6, atol=1e-6
    )


def test_nan_stays_in_its_query_and_head() -> None:
    made = make_cached(AttentionCase(6, 2, 20, ((70, 9),)))
    made.q[0][65, 1, 3] = np.nan
    out = made.attend([(61, 70)], 0.3)
    assert np.isnan(out[4, 1]).all()
    out[4, 1] = 0
    assert np.isfinite(out).all()


def test_reads_the_query_columns_of_a_fused_qkv() -> None:
    made = make_cached(AttentionCase(6, 2, 16, ((40, 3),)))
    wanted = made.attend([(37, 40)], 0.3).reshape(3, -1)
    qkv = np.concatenate([made.q[0][37:40].reshape(3, -1), np.full((3, 64), np.nan, np.float32)], axis=1)
    out = poisoned(3, 96)
    _core.ops.attention(made.step([(37, 40)]), q=tokens(qkv), out=tokens(out), cache=made.cache, layer=0,
                        n_heads=6, scale=0.3)  # fmt: skip
    np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"q": tokens(poisoned(2, 63))}, ValueError, "attention: q has 63 columns, wanted at least 64"),
        ({"out": tokens(poisoned(2, 65))}, ValueError, "attention: out has 65 columns, wanted 64"),
        ({"out": tokens(poisoned(1, 64))}, ValueError, "attention: out has 1 rows, the step has 2"),
        ({"layer": 1}, ValueError, "attention: layer is 1, the cache has 1"),
        ({"layer": -1}, ValueError, "attention: layer is -1, the cache has 1"),
        ({"n_heads": 3}, ValueError, "attention: n_heads is 3, wanted a multiple of n_kv_heads, 2"),
        ({"n_heads": 0}, ValueError, "attention: n_heads is 0, wanted a multiple"),
        ({"n_heads": 98}, ValueError, "attention: 98 heads over 2 KV heads, wanted at most 48 each"),
        (
            {"cache": _core.KvCache("f16", 1, 1, 2, 513)},
            ValueError,
            "attention: head_dim is 513, wanted at most 512",
        ),
        ({"scale": "1"}, TypeError, "attention: scale is a str"),
        ({"scale": None}, TypeError, "attention: scale is missing"),
        ({"mask": 1}, TypeError, r"attention: unexpected argument among .*mask"),
    ],
)
def test_refuses(change: dict[str, object], error: type[Exception], message: str) -> None:
    good = {"q": tokens(np.ones((2, 64), np.float32)), "out": tokens(poisoned(2, 64)), "layer": 0,
            "n_heads": 4, "cache": _core.KvCache("f16", 1, 1, 2, 16), "scale": 1.0}  # fmt: skip
    with pytest.raises(error, match=message):
        _core.ops.attention(rows_step(2), **(good | change))
