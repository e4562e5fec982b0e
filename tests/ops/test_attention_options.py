"""Windows, caps, biases and keys of a whole sequence: no bit depends on what stands beside a row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from harness import PAGE, Cached, bits, fewer, make_cached, poisoned, rows_step, tokens

from cases import WINDOWS, AttentionCase
from lanner import _core

CAUSAL = [
    {"window": 1},
    {"window": 63},
    {"window": 64},
    {"window": 100},
    {"window": 257},
    {"softcap": 1.5},
    {"reach": 20},
    {"window": 70, "softcap": 1.5, "reach": 9},
]


def described(options: dict[str, Any]) -> str:
    return "-".join(f"{name}{value:g}" for name, value in options.items())


@pytest.mark.parametrize("options", CAUSAL, ids=described)
@pytest.mark.parametrize("kv_format", ["f16", "f32", "q8"])
@pytest.mark.parametrize(
    ("n_heads", "n_kv_heads", "head_dim", "length"), [(6, 2, 20, 330), (7, 1, 16, 600), (48, 1, 16, 150)]
)
def test_whole_chunked_and_token_by_token_are_the_same_bits(
    n_heads: int, n_kv_heads: int, head_dim: int, length: int, kv_format: str, options: dict[str, Any]
) -> None:
    case = AttentionCase(n_heads, n_kv_heads, head_dim, ((length, length),), kv_format, **options)
    made = make_cached(case)
    whole = bits(made.attend([(0, length)], 0.3))
    for chunk in (61, 7, 4, 1):
        parts = [
            made.attend([(first, min(first + chunk, length))], 0.3)
            for first in range(0, length if chunk > 4 else fewer(length), chunk)
        ]
        got = bits(np.concatenate(parts))
        np.testing.assert_array_equal(got, whole[: len(got)], err_msg=f"chunks of {chunk}")


@pytest.mark.parametrize("options", [{}, *CAUSAL], ids=described)
def test_sequences_of_a_step_do_not_see_each_other(options: dict[str, Any]) -> None:
    sequences = ((1, 1), (513, 1), (33, 33), (64, 1), (300, 4), (258, 5), (700, 90))
    check_alone(make_cached(AttentionCase(6, 2, 20, sequences, **options)))


@pytest.mark.parametrize("options", [{}, {"softcap": 1.5, "reach": 9}], ids=described)
def test_whole_sequences_of_a_step_do_not_see_each_other(options: dict[str, Any]) -> None:
    sequences = ((1, 1), (33, 33), (2, 2), (300, 300), (4, 4), (258, 258))
    check_alone(make_cached(AttentionCase(6, 2, 20, sequences, causal=False, **options)))


def check_alone(made: Cached) -> None:
    spans = [(kv - n, kv) for kv, n in made.case.sequences]
    together, at = made.attend(spans, 0.3), 0
    for s, (first, end) in enumerate(spans):
        alone = made.attend([(first, end) if i == s else (0, 0) for i in range(len(spans))], 0.3)
        np.testing.assert_array_equal(bits(together[at : at + end - first]), bits(alone))
        at += end - first


@pytest.mark.parametrize("window", WINDOWS)
def test_nothing_outside_a_window_is_seen(window: int) -> None:
    """Not even as 0 * NaN."""
    for n in (1, 3, 60):
        made = make_cached(AttentionCase(6, 2, 20, ((600, n),), window=window))
        clean = made.attend([(600 - n, 600)], 0.3)
        hidden = max(600 - n + 1 - window, 0)
        made.k[0][:hidden], made.v[0][:hidden] = np.nan, np.inf
        made.append([(0, 600)], made.k, made.v)
        np.testing.assert_array_equal(bits(made.attend([(600 - n, 600)], 0.3)), bits(clean))


@pytest.mark.parametrize("kv_format", ["f16", "f32", "q8"])
def test_a_row_whose_neighbours_see_infinities_does_not(kv_format: str) -> None:
    made = make_cached(AttentionCase(6, 2, 20, ((200, 200),), kv_format, window=30))
    clean = made.attend([(0, 200)], 0.3)
    made.k[0][90], made.v[0][90] = np.inf, np.nan
    made.append([(90, 91)], made.k, made.v)
    dirty = made.attend([(0, 200)], 0.3)
    seers = slice(90, 120)
    assert np.isnan(dirty[seers]).all()
    dirty[seers] = clean[seers]
    np.testing.assert_array_equal(bits(dirty), bits(clean))


def test_a_window_that_holds_everything_is_none() -> None:
    made = make_cached(AttentionCase(6, 2, 20, ((700, 130),)))
    plain = bits(made.attend([(570, 700)], 0.3))
    for window in (700, 701, 2**31 - 1):
        np.testing.assert_array_equal(bits(made.attend([(570, 700)], 0.3, window=window)), plain)


def test_a_bias_of_zeros_is_none_and_the_last_query_sees_all() -> None:
    made = make_cached(AttentionCase(6, 2, 20, ((330, 330),)))
    plain = made.attend([(0, 330)], 0.3)
    zeros = made.attend([(0, 330)], 0.3, bias=np.zeros((6, 5), np.float32))
    np.testing.assert_array_equal(bits(zeros), bits(plain))
    whole = made.attend([(0, 330)], 0.3, causal=False)
    np.testing.assert_array_equal(bits(whole[-1]), bits(plain[-1]))


def test_a_bias_is_that_of_its_distance() -> None:
    """Keys of zeros leave the bias alone: one distance takes nearly all, and its value comes out."""
    made = make_cached(AttentionCase(2, 1, 16, ((150, 150),), "f32"))
    made.append([(0, 150)], [np.zeros_like(made.k[0])], made.v)
    for reach, wanted in ((40, -40), (40, -7), (40, 0), (40, 39), (3, 2), (0, 0)):
        bias = np.zeros((2, 2 * reach + 1), np.float32)
        bias[1, wanted + reach] = 100.0
        out = made.attend([(0, 150)], 1.0, bias=bias, causal=False)
        for i in range(150):
            j = i + wanted
            at_ends = wanted == -reach and i > reach
            if 0 <= j < 150 and not at_ends and abs(wanted) < reach:
                np.testing.assert_array_equal(out[i, 1], made.v[0][j, 0])
        mean = made.v[0][:150, 0].mean(axis=0, dtype=np.float64)
        np.testing.assert_allclose(out[:, 0], np.tile(mean, (150, 1)), atol=1e-5)


def test_scores_beyond_a_cap_are_the_cap() -> None:
    made = make_cached(AttentionCase(2, 1, 16, ((90, 1),), "f32"))
    made.k[0] = np.where(np.arange(len(made.k[0]))[:, None, None] % 2, 1e6, -1e6).astype("f4") + 0 * made.k[0]
    made.append([(0, 90)], made.k, made.v)
    made.q = [np.ones_like(made.q[0])]
    p = np.where(np.arange(90) % 2, np.exp(2.0), np.exp(-2.0))
    wanted = (p / p.sum()) @ made.v[0][:90, 0].astype(np.float64)
    np.testing.assert_allclose(made.attend([(89, 90)], 1.0, softcap=2.0)[0], [wanted] * 2, atol=1e-6)


def test_cost_of_a_window_does_not_grow_with_the_length() -> None:
    made = make_cached(AttentionCase(6, 2, 16, ((640, 1),), window=32))
    cost = []
    for kv in (64, 640):
        program = _core.Program(1 << 20, 1, 8, 1)
        program.add("attention", "a", {
            "q": _core.Slot(0, "float32", 96, "tokens"), "out": _core.Slot(8192, "float32", 96, "tokens"),
            "cache": made.cache, "layer": 0, "n_heads": 6, "scale": 1.0, "window": 32}, False)  # fmt: skip
        cost.append(program.cost(0, made.step([(kv - 1, kv)])))
    assert cost[0] == cost[1] == (32 * 2 * 32 * 2 + 8 * 96, 4 * 32 * 96)


@pytest.mark.parametrize(
    ("n", "kv", "options"),
    [(1, 7, {}), (7, 7, {}), (3, 9, {"window": 4}), (9, 9, {"window": 4}), (5, 6, {"window": 3}),
     (6, 6, {"causal": False}), (1, 9, {"window": 20})],
)  # fmt: skip
def test_cost_counts_the_pairs(n: int, kv: int, options: dict[str, Any]) -> None:
    made = make_cached(AttentionCase(2, 1, 16, ((kv, n),)))
    program = _core.Program(1 << 20, 1, 16, 1)
    program.add("attention", "a", {
        "q": _core.Slot(0, "float32", 32, "tokens"), "out": _core.Slot(8192, "float32", 32, "tokens"),
        "cache": made.cache, "layer": 0, "n_heads": 2, "scale": 1.0, **options}, False)  # fmt: skip
    distance = np.arange(kv - n, kv)[:, None] - np.arange(kv)
    seen = (distance >= 0) & (distance < options.get("window", kv))
    pairs = seen.sum() if options.get("causal", True) else n * kv
    assert program.cost(0, made.step([(kv - n, kv)]))[1] == 4 * pairs * 32


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"window": -1}, ValueError, "attention: window is -1, wanted a number that is not negative"),
        ({"window": 1.5}, TypeError, "attention: window is a float"),
        (
            {"window": 4, "causal": False},
            ValueError,
            "attention: window is 4, wanted 0 where causal is false",
        ),
        ({"softcap": -1.0}, ValueError, "attention: softcap is -1, wanted a finite number that is not"),
        ({"softcap": np.inf}, ValueError, "attention: softcap is inf"),
        ({"softcap": np.nan}, ValueError, "attention: softcap is nan"),
        (
            {"bias": np.ones(8, "f4")},
            ValueError,
            "attention: bias has 8 elements, wanted an odd number for each",
        ),
        (
            {"bias": np.ones(13, "f4")},
            ValueError,
            "attention: bias has 13 elements, wanted an odd number for",
        ),
        ({"bias": np.ones(12)}, ValueError, "attention: bias must be a contiguous array of float32"),
        ({"bias": np.array([0, 0, 0, np.nan], "f4")}, ValueError, r"attention: bias\[3\] is nan, wanted a"),
        ({"cross": True}, ValueError, "attention: causal is true, wanted false where keys are in a cross"),
        (
            {"cross": True, "causal": False, "bias": np.ones(4, "f4")},
            ValueError,
            "attention: there is a bias, wanted none where keys are in a cross cache",
        ),
    ],
)
def test_refuses(change: dict[str, object], error: type[Exception], message: str) -> None:
    good = {"q": tokens(np.ones((2, 64), np.float32)), "out": tokens(poisoned(2, 64)), "layer": 0,
            "n_heads": 4, "cache": _core.KvCache("f16", 1, 1, 2, 16), "scale": 1.0}  # fmt: skip
    with pytest.raises(error, match=message):
        _core.ops.attention(rows_step(2), **(good | change))


def test_part_of_a_sequence_is_refused_where_all_is_seen() -> None:
    made = make_cached(AttentionCase(6, 2, 20, ((70, 70),), causal=False))
    with pytest.raises(
        ValueError, match="attention: sequence 0 has 69 of its 70 positions in the step, wanted all"
    ):
        made.attend([(1, 70)], 0.3)


# ---- keys of a source ----------------------------------------------------------------------------


def cross_step(made: Cached, counts: list[int]) -> _core.Step:
    """counts[s] queries of every sequence, at positions from 3, over the keys of its own source."""
    n = sum(counts)
    step = _core.Step(n, len(counts), 1, 2, made.tables.shape[1])
    step.n_tokens, step.n_seqs = n, len(counts)
    step.seq_starts[:] = np.cumsum([0, *counts])
    step.token_seqs[:] = np.repeat(np.arange(len(counts)), counts)
    step.positions[:] = np.concatenate([np.arange(3, 3 + c) for c in counts])
    step.kv_lens[:] = [3 + c for c in counts]
    step.cross_lens[:] = [kv for kv, _ in made.case.sequences]
    step.cross_tables[:] = made.tables
    return step


def attend_across(made: Cached, step: _core.Step, q: np.ndarray) -> np.ndarray:
    out = poisoned(len(q), made.case.n_heads * made.case.head_dim)
    _core.ops.attention(
        step, q=tokens(q.reshape(len(q), -1)), out=tokens(out), cache=made.cache, layer=0,
        n_heads=made.case.n_heads, scale=0.3, causal=False, cross=True,
    )  # fmt: skip
    return out.reshape(q.shape)


@pytest.mark.parametrize("kv_format", ["f16", "f32", "q8"])
def test_across_gives_what_whole_sequences_give(kv_format: str) -> None:
    """The same keys seen from elsewhere: the same bits, for any number of queries of a step."""
    sequences = ((1, 1), (33, 33), (300, 300), (64, 64), (600, 600))
    made = make_cached(AttentionCase(6, 2, 20, sequences, kv_format, causal=False))
    wanted = np.split(
        made.attend([(0, kv) for kv, _ in sequences], 0.3), np.cumsum([kv for kv, _ in sequences])
    )
    for counts in ([1, 1, 1, 1, 1], [1, 4, 60, 2, 3], [1, 33, 1, 5, 200]):
        q = np.concatenate([made.q[s][:c] for s, c in enumerate(counts)])
        got = attend_across(made, cross_step(made, counts), q)
        expected = np.concatenate([wanted[s][:c] for s, c in enumerate(counts)])
        np.testing.assert_array_equal(bits(got), bits(expected))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("step.cross_lens[0] = 0", "attention: sequence 0 has a cross_len of 0, wanted 1 to 96"),
        ("step.cross_lens[0] = 97", "attention: sequence 0 has a cross_len of 97, wanted 1 to 96"),
        ("step.cross_tables[0, 1] = 99", "attention: cross page 99 of sequence 0 is outside the cache of 6"),
        ("step.cross_tables[0, 1] = -1", "attention: cross page -1 of sequence 0 is outside the cache of 6"),
        ("step.seq_starts[1] = 3", "attention: 1 sequences do not cover the 2 tokens"),
    ],
)
def test_a_source_that_does_not_exist_is_refused(change: str, message: str) -> None:
    made = make_cached(AttentionCase(6, 2, 16, ((2 * PAGE, 2),)))
    step = cross_step(made, [2])
    exec(change)
    with pytest.raises(ValueError, match=message):
        attend_across(made, step, made.q[0][:2])


def test_a_step_without_room_for_sources_is_refused() -> None:
    made = make_cached(replace(AttentionCase(6, 2, 16, ((40, 2),))))
    with pytest.raises(ValueError, match="attention: sequence 0 has a cross_len of 0, wanted 1 to 0"):
        attend_across(made, made.step([(38, 40)]), made.q[0][:2])
