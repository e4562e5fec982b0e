"""Layers of one program that attend in different ways: each has the plan of its kind, on any thread count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lanner import _core
from lanner.builder import Builder, Rope
from lanner.program import Program
from reference import random_rows

N_HEADS, N_KV_HEADS, DIM, HIDDEN, VOCAB, MAX_TOKENS = 6, 2, 16, 32, 50, 160
PAGE = _core.PAGE_POSITIONS
ROPES = [Rope(10000.0 ** (-np.arange(0, DIM, 2) / DIM)), Rope(0.5 ** np.arange(3.0), 1.25)]
LAYERS: list[dict[str, Any]] = [
    {"window": 300}, {}, {"window": 40, "softcap": 3.0}, {"window": 300, "softcap": 1.0},
    {"bias": np.linspace(-1, 1, N_HEADS * 65, dtype=np.float32)}, {"cross": True}, {}, {"cross": True},
]  # fmt: skip

Sequence = tuple[int, int, int]
"""Cached positions after the step, tokens of the step, positions of the source."""

STEPS: list[list[Sequence]] = [
    [(60, 60, 90), (1, 1, 1), (70, 70, 300)],
    [(61, 1, 90), (2, 1, 1), (150, 80, 300)],
    [(62, 1, 90), (4, 2, 1), (300, 150, 300)],
    [(63, 1, 90), (5, 1, 1), (301, 1, 300)],
    [(100, 37, 90), (6, 1, 1), (420, 119, 300)],
    [(101, 1, 90), (9, 3, 1), (570, 150, 300)],
    [(102, 1, 90), (10, 1, 1), (600, 30, 300)],
    [(103, 1, 90), (11, 1, 1), (601, 1, 300)],
]


def packed(n: int, k: int, seed: int) -> _core.Packed:
    rng = np.random.default_rng(seed)
    return _core.Packed([(random_rows("f32", n, k, rng).ravel(), "f32", n, k, 0)])


EMBEDDING = packed(VOCAB, HIDDEN, 0)
QKV, KV, OUT = (packed(n, k, 1) for n, k in ((160, HIDDEN), (64, HIDDEN), (HIDDEN, 96)))
NORM = np.linspace(0.5, 1.5, DIM, dtype=np.float32)
MAX_PAGES, SOURCE_PAGES = 20, 10


def caches() -> list[_core.KvCache]:
    return [_core.KvCache("f16", len(LAYERS), n, N_KV_HEADS, DIM) for n in (3 * MAX_PAGES, 3 * SOURCE_PAGES)]


def build(n_threads: int) -> Program:
    """A decoder. Odd layers norm their heads; layers that see a source read nothing else."""
    cache, cross_cache = caches()
    source = _core.Step(900, 3, 1, 1, SOURCE_PAGES)
    b = Builder(cache, N_HEADS, DIM, cross_cache)
    x = b.embed(EMBEDDING)
    for i, options in enumerate(LAYERS):
        b.scope = f"L{i}."
        q = b.linear(x, QKV, "qkv", by_heads=True)
        if not options.get("cross"):
            q = b.head_norm(q, NORM, NORM, 1e-6, "norm") if i % 2 else q
            q = b.rope_append(q, i, ROPES[i % 2], "rope")
        x = b.linear(b.attention(q, i, 0.3, "attn", **options), OUT, "o", add_to=x)
    b.scope = ""
    logits = b.linear(b.gather_rows(x, "last"), EMBEDDING, "head")
    fill_source(cross_cache, source)
    return Program(b, [logits, b.sample(logits)], n_threads, MAX_TOKENS, MAX_TOKENS)


def tables(n_pages: int) -> np.ndarray:
    return np.random.default_rng(n_pages).permutation(3 * n_pages).reshape(3, n_pages).astype(np.int32)


def fill_source(cache: _core.KvCache, step: _core.Step) -> None:
    lengths = [cross for _, _, cross in STEPS[0]]
    step.n_tokens, step.n_seqs = sum(lengths), 3
    step.seq_starts[:] = np.cumsum([0, *lengths])
    step.token_seqs[: step.n_tokens] = np.repeat(np.arange(3), lengths)
    step.positions[: step.n_tokens] = np.concatenate([np.arange(n) for n in lengths])
    step.cross_lens[:], step.cross_tables[:] = lengths, tables(SOURCE_PAGES)
    rng = np.random.default_rng(2)
    for layer in range(len(LAYERS)):
        kv = _core.Buffer(rng.standard_normal((step.n_tokens, 64)).astype(np.float32), "tokens")
        _core.ops.append(step, kv=kv, cache=cache, layer=layer, n_heads=0, cross=True)


def make_step(sequences: list[Sequence]) -> _core.Step:
    counts = [n for _, n, _ in sequences]
    step, n = _core.Step(sum(counts), len(counts), sum(counts), MAX_PAGES, SOURCE_PAGES), sum(counts)
    step.n_tokens, step.n_seqs, step.n_outputs = n, len(counts), n
    step.seq_starts[:] = np.cumsum([0, *counts])
    step.token_seqs[:] = np.repeat(np.arange(len(counts)), counts)
    step.positions[:] = np.concatenate([np.arange(kv - c, kv) for kv, c, _ in sequences])
    step.token_ids[:] = (step.positions * 7 + step.token_seqs * 3) % VOCAB
    step.kv_lens[:] = [kv for kv, _, _ in sequences]
    step.cross_lens[:] = [cross for _, _, cross in sequences]
    step.block_tables[:], step.cross_tables[:] = (tables(p)[: len(counts)] for p in (MAX_PAGES, SOURCE_PAGES))
    step.output_rows[:] = np.arange(n)
    return step


def test_every_thread_count_gives_what_the_interpreter_gives() -> None:
    single = build(1)
    wanted = [single.interpret(make_step(s))["head"] for s in STEPS]
    for n_threads in (1, 2, 3, 8):
        program = build(n_threads)
        for i, (sequences, logits) in enumerate(zip(STEPS, wanted, strict=True)):
            assert program.core.run(make_step(sequences))
            np.testing.assert_array_equal(
                program.array(program.kept[0], len(logits)), logits, err_msg=f"{n_threads}, {i}"
            )


def test_prompts_cut_otherwise_and_alone_give_the_same_bits() -> None:
    """The rows of every sequence, fed whole as far as a step goes, alone or token by token at its end."""
    together, alone, rows = build(2), build(3), {}
    for sequences in STEPS:
        assert together.core.run(make_step(sequences))
        logits, at = together.array(together.kept[0], sum(n for _, n, _ in sequences)), 0
        for s, (kv, n, _) in enumerate(sequences):
            for i in range(n):
                rows[s, kv - n + i] = logits[at + i].copy()
            at += n
    for s in range(3):
        last, cross = STEPS[-1][s][0], STEPS[-1][s][2]
        starts = [*range(0, last - 5, MAX_TOKENS - 2), *range(max(last - 5, 0), last)]
        for first, end in zip(starts, [*starts[1:], last], strict=True):
            # The sequences before it have one token, so that it has its own pages.
            sequences = [(1, 1, STEPS[-1][o][2]) for o in range(s)] + [(end, end - first, cross)]
            assert alone.core.run(make_step(sequences))
            logits = alone.array(alone.kept[0], s + end - first)
            for i in range(first, end):
                np.testing.assert_array_equal(logits[s + i - first], rows[s, i], err_msg=f"{s} at {i}")


def test_dump_names_what_is_not_ordinary() -> None:
    lines = {line.split()[0]: line for line in build(1).dump().splitlines()}
    assert lines["L0.attn"].endswith("layer=0 n_heads=6 scale=0.3 window=300")
    assert lines["L1.attn"].endswith("layer=1 n_heads=6 scale=0.3")
    assert lines["L5.attn"].endswith("layer=5 n_heads=6 scale=0.3 causal=False cross=True")


def test_one_half_of_a_list_may_be_whole_and_not_causal() -> None:
    """An encoder sees all of its sequence and leaves keys for a decoder; a part of it is refused."""
    cache, cross_cache = caches()
    b = Builder(cache, N_HEADS, DIM, cross_cache)
    x = b.embed(EMBEDDING)
    q = b.append(b.linear(x, QKV, "qkv", by_heads=True), 0, "append")
    x = b.linear(b.attention(q, 0, 0.3, "attn", causal=False), OUT, "o", add_to=x)
    b.append(b.linear(x, KV, "kv", by_heads=True), 0, "keys", cross=True)
    logits = b.linear(b.gather_rows(x, "last"), EMBEDDING, "head")
    program = Program(b, [logits, b.sample(logits)], 2, MAX_TOKENS, MAX_TOKENS)
    step = make_step([(60, 60, 60), (1, 1, 1), (70, 70, 70)])
    wanted = program.interpret(step)["head"]
    assert program.core.run(step)
    np.testing.assert_array_equal(program.array(program.kept[0], 131), wanted)
    for name, value, message in (
        ("kv_lens", 71, "Program.run: token 61 has position 0 of sequence 2, wanted 1 of 2"),
        ("cross_lens", 69, "Program.run: token 130 has position 69 of sequence 2, wanted one below 69 of 2"),
    ):
        bad = make_step([(60, 60, 60), (1, 1, 1), (70, 70, 70)])
        getattr(bad, name)[2] = value
        with pytest.raises(ValueError, match=message):
            program.core.run(bad)
    with pytest.raises(ValueError, match="sequence 2 has 70 of its 71 positions in the step, wanted all"):
        program.core.run(make_step([(60, 60, 60), (1, 1, 1), (71, 70, 71)]))


def test_a_builder_without_a_cross_cache_refuses() -> None:
    b = Builder(caches()[0], N_HEADS, DIM)
    q = b.linear(b.embed(EMBEDDING), QKV, "qkv")
    with pytest.raises(ValueError, match="attention: across is cross, the builder has no cross_cache"):
        b.attention(q, 0, 1.0, "across", cross=True)
    with pytest.raises(ValueError, match="append: keys is cross, the builder has no cross_cache"):
        b.append(q, 0, "keys", cross=True)
