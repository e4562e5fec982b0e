"""Layers with the same window have pages of their own, which go to other sequences once all have passed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import random_models
from lanner import _core
from lanner.builder import Builder
from lanner.kv_cache import CacheShape, KvCaches, PageGroup, make_caches, page_bytes
from lanner.program import Program
from test_attention_kinds import DIM, EMBEDDING, N_HEADS, N_KV_HEADS, OUT, QKV, ROPES, VOCAB

PAGE = _core.PAGE_POSITIONS
WINDOWS = (40, 0, 300, 40, 300, 0, 5)
CONTEXT, MAX_TOKENS, MAX_SEQS = 800, 160, 3
MAX_PAGES = CONTEXT // PAGE


class Model:
    """Layers of WINDOWS over the caches that are given, or over one cache for all."""

    def __init__(self, n_threads: int, caches: KvCaches | None = None, kv_format: str = "f16") -> None:
        one = _core.KvCache(kv_format, len(WINDOWS), MAX_SEQS * MAX_PAGES, N_KV_HEADS, DIM)
        b = Builder(caches.layers if caches else one, N_HEADS, DIM)
        x = b.embed(EMBEDDING)
        for i, window in enumerate(WINDOWS):
            b.scope = f"L{i}."
            q = b.linear(x, QKV, "qkv", by_heads=True)
            q = b.append(q, i, "append") if i == 3 else b.rope_append(q, i, ROPES[0], "rope")
            x = b.linear(b.attention(q, i, 0.3, "attn", window=window), OUT, "o", add_to=x)
        self.logits = b.linear(b.gather_rows(x, "last"), EMBEDDING, "head")
        self.program = Program(b, [self.logits], n_threads, MAX_TOKENS, MAX_TOKENS)
        n_groups = len(caches.groups) if caches else 1
        self.step = _core.Step(MAX_TOKENS, MAX_SEQS, MAX_TOKENS, MAX_PAGES, n_groups=n_groups)

    def fill(self, spans: list[tuple[int, int, int]], tables: list[np.ndarray]) -> None:
        """(sequence, first, end) of every row of the step; tables (G, MAX_SEQS, MAX_PAGES) by sequence."""
        step, n = self.step, 0
        for row, (s, first, end) in enumerate(spans):
            at = slice(n, n + end - first)
            step.positions[at] = np.arange(first, end)
            step.token_ids[at] = (step.positions[at] * 7 + 11 * s) % VOCAB
            step.token_seqs[at] = row
            step.seq_starts[row : row + 2] = n, at.stop
            step.kv_lens[row] = end
            for g, table in enumerate(tables):
                step.block_tables[g * MAX_SEQS + row] = table[s]
            n = at.stop
        step.n_tokens, step.n_seqs, step.n_outputs = n, len(spans), n
        step.output_rows[:n] = np.arange(n)

    def run(self, spans: list[tuple[int, int, int]], tables: list[np.ndarray]) -> np.ndarray:
        self.fill(spans, tables)
        assert self.program.core.run(self.step)
        return self.program.array(self.logits, self.step.n_tokens).copy()


class Pages:
    """Pages of one group: taken in random order, given back as soon as no later token sees them."""

    def __init__(self, group: PageGroup, rng: np.random.Generator) -> None:
        self.window = group.window
        self.free = rng.permutation(group.n_pages).tolist()
        self.table = np.full((MAX_SEQS, MAX_PAGES), -1, np.int32)
        self.n_most = 0

    def reserve(self, s: int, first: int, end: int) -> None:
        row = self.table[s]
        if self.window:
            for p in np.flatnonzero(row[: max(0, first + 1 - self.window) // PAGE] >= 0):
                self.free.insert(0, int(row[p]))
                row[p] = -1
        for p in range(first // PAGE, -(-end // PAGE)):
            row[p] = self.free.pop() if row[p] < 0 else row[p]
        self.n_most = max(self.n_most, int((row >= 0).sum()))


def random_steps(rng: np.random.Generator) -> list[list[tuple[int, int, int]]]:
    """Steps of up to three sequences until each has CONTEXT positions."""
    lengths, steps = [0] * MAX_SEQS, []
    while min(lengths) < CONTEXT:
        spans, room = [], MAX_TOKENS
        for s in rng.permutation(MAX_SEQS)[: rng.integers(1, MAX_SEQS + 1)].tolist():
            n = min(int(rng.choice([1, 1, 3, 31, 33, 100, 160])), room, CONTEXT - lengths[s])
            if n:
                spans.append((s, lengths[s], lengths[s] + n))
                lengths[s], room = lengths[s] + n, room - n
        steps += [spans] if spans else []
    return steps


def new_caches(kv_format: str = "f16") -> KvCaches:
    """As many pages as sequences keep, and not one more: what is given back is written again."""
    shape = CacheShape(WINDOWS, page_bytes(kv_format, N_KV_HEADS, DIM), CONTEXT, MAX_TOKENS)
    groups = shape.page_groups(MAX_SEQS * shape.sequence_bytes, 64)
    assert all(group.n_pages == MAX_SEQS * group.n_kept for group in groups)
    return make_caches(kv_format, WINDOWS, groups, N_KV_HEADS, DIM)


@pytest.mark.parametrize("seed", range(4))
def test_pages_behind_windows_go_to_others_and_no_bit_changes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    caches = new_caches()
    assert [group.window for group in caches.groups] == [0, 5, 40, 300]
    grouped, plain = Model(1 + seed % 3, caches), Model(2)
    pages = [Pages(group, rng) for group in caches.groups]
    whole = np.arange(MAX_SEQS * MAX_PAGES, dtype=np.int32).reshape(MAX_SEQS, MAX_PAGES)
    for spans in random_steps(rng):
        for span in spans:
            for each in pages:
                each.reserve(*span)
        got = grouped.run(spans, [each.table for each in pages])
        np.testing.assert_array_equal(got, plain.run(spans, [whole]))
    assert min(int((each.table < 0).sum()) for each in pages[1:]) > 0
    for each, group in zip(pages, caches.groups, strict=True):
        assert each.n_most <= group.n_kept


def test_the_pages_that_a_sequence_keeps() -> None:
    """The most pages that a window and a chunk touch, over all places where the chunk may begin."""
    for window, context, chunk in ((1, 800, 1), (33, 800, 1), (40, 800, 160), (300, 800, 160), (0, 800, 7)):
        most = 0
        for first in range(context - chunk + 1):
            begin = max(0, first + 1 - window) // PAGE if window else 0
            most = max(most, -(-(first + chunk) // PAGE) - begin)
        shape = CacheShape((window,), 1, context, chunk)
        assert most <= shape.n_kept(window) <= most + 1
    assert CacheShape((700,), 1, 800, 512).n_kept(700) == 25


def test_a_window_that_holds_the_context_is_none() -> None:
    shape = CacheShape((512, 0, 511, 2048), 1, 512, 512)
    assert shape.group_windows == (0, 0, 511, 0)


def test_bytes_become_pages_of_every_group_alike() -> None:
    """Of ten layers of 100 bytes a page, nine keep 33 pages of a sequence, one 128."""
    shape = CacheShape((0, *[512] * 9), 100, 4096, 512)
    one = 100 * (9 * 33 + 128)
    assert shape.sequence_bytes == one
    for shares, n_pages in ((0, (128, 33)), (1, (128, 33)), (2, (256, 66)), (2.5, (320, 82)),
                            (64, (8192, 2112)), (1000, (8192, 2112))):  # fmt: skip
        groups = shape.page_groups(int(one * shares), 64)
        assert groups == [(n_pages[0], 128, 0), (n_pages[1], 33, 512)]
        assert 100 * (groups[0].n_pages + 9 * groups[1].n_pages) <= max(1, shares) * one
    assert shape.page_groups(one * 64, 3)[0].n_pages == 384


@pytest.mark.parametrize(
    ("name", "context", "windows"),
    [("gemma3", 300, [0, 70]), ("gemma3", 70, [0]), ("phi3", 300, [100]), ("llama", 300, [0])],
)
def test_a_decoder_has_a_group_for_every_window(
    name: str, context: int, windows: list[int], tmp_path: Path
) -> None:
    path = random_models.write(random_models.MODELS[name], tmp_path / "model.gguf")
    decoder = random_models.decoder(path, context=context)
    assert [group.window for group in decoder.page_groups] == windows
    assert decoder.step.n_groups == len(windows)
    assert sum(cache.n_layers for cache in decoder.caches.caches) == decoder.config.n_layers
    decoder.copy_pages([(g, 1, 0) for g in range(len(windows))])


# ---- doors ---------------------------------------------------------------------------------------


def test_needed_pages_must_exist() -> None:
    """A step of positions 100 to 109 sees pages 1 to 3 through a window of 40, 3 through 5."""
    model = Model(1, new_caches())
    tables = [np.zeros((MAX_SEQS, MAX_PAGES), np.int32) for _ in range(4)]
    for first, end in ((0, 100), (100, 110)):
        model.run([(0, first, end)], tables)
    for group, page, needed in ((0, 0, True), (1, 2, False), (1, 3, True), (2, 0, False), (2, 1, True),
                                (3, 0, True), (3, 3, True), (0, 4, False), (3, 4, False)):  # fmt: skip
        for value in (-1, model_pages(group)):
            bad = [table.copy() for table in tables]
            bad[group][0, page] = value
            if needed:
                where = f" in group {group}" if group else ""
                with pytest.raises(ValueError, match=f"page {value} of sequence 0{where} is outside"):
                    model.run([(0, 100, 110)], bad)
            else:
                model.run([(0, 100, 110)], bad)


def model_pages(group: int) -> int:
    return new_caches().groups[group].n_pages


def test_a_step_without_tables_for_all_groups_is_refused() -> None:
    model = Model(1, new_caches())
    model.step = _core.Step(MAX_TOKENS, MAX_SEQS, MAX_TOKENS, MAX_PAGES, n_groups=3)
    with pytest.raises(ValueError, match="the step has tables of 3 groups, the caches are of 4"):
        model.run([(0, 0, 5)], [np.zeros((MAX_SEQS, MAX_PAGES), np.int32)] * 3)


@pytest.mark.parametrize("n_groups", [0, -1, 17])
def test_a_step_has_one_to_sixteen_groups(n_groups: int) -> None:
    with pytest.raises(ValueError, match=f"n_groups is {n_groups}, wanted 1 to 16"):
        _core.Step(1, 1, 1, 1, n_groups=n_groups)


# ---- copies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kv_format", ["f16", "f32", "q8"])
def test_a_copied_page_is_the_page(kv_format: str) -> None:
    """A sequence forks in the middle of a page: each goes on in a copy of its own and changes no other."""
    rng = np.random.default_rng(5)
    caches, alone = new_caches(kv_format), Model(2, kv_format=kv_format)
    forked = Model(2, caches, kv_format)
    whole = np.arange(MAX_SEQS * MAX_PAGES, dtype=np.int32).reshape(MAX_SEQS, MAX_PAGES)
    tables = [
        rng.permutation(g.n_pages)[: 2 * g.n_kept].reshape(2, -1).astype(np.int32) for g in caches.groups
    ]
    tables = [np.pad(table[:, :4], ((0, 1), (0, MAX_PAGES - 4))) for table in tables]
    n = 70  # 2 pages and a part of the third
    forked.run([(0, 0, n)], tables)
    for g, table in enumerate(tables):
        caches.copy_pages([(g, int(table[0, 2]), int(table[1, 2]))])
        table[1, :2] = table[0, :2]
    wanted = alone.run([(0, 0, n)], [whole])
    assert wanted.shape == (n, VOCAB)
    for model, ts in ((forked, tables), (alone, [np.stack([whole[0]] * MAX_SEQS)])):
        model.fill([(0, n, n + 20), (1, n, n + 20)] if model is forked else [(1, n, n + 20)], ts)
        assert model.program.core.run(model.step)
    # Sequence 1 goes on with tokens of its own; alone it wrote over what sequence 0 would have had.
    second = forked.program.array(forked.logits, 40)[20:].copy()
    np.testing.assert_array_equal(second, alone.program.array(alone.logits, 20))
    np.testing.assert_array_equal(
        forked.program.array(forked.logits, 20), alone.run([(0, n, n + 20)], [whole])
    )


def test_pages_to_copy_must_exist() -> None:
    cache = _core.KvCache("f16", 2, 3, N_KV_HEADS, DIM)
    cache.copy_page(2, 2)
    for source, target in ((3, 0), (0, 3), (-1, 0), (0, -1)):
        with pytest.raises(ValueError, match=r"copy_page: page is (3|-1), the cache has 3"):
            cache.copy_page(source, target)
    for group in (-1, 16):
        with pytest.raises(ValueError, match=f"KvCache: group is {group}, wanted 0 to 15"):
            _core.KvCache("f16", 1, 1, 1, 16, group)
