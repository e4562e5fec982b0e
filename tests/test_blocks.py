"""Cache pages and the arrays of a step, against models of a few lines of Python."""

from __future__ import annotations

from array import array
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lanner._blocks import PageManager, StepViews, fill_step
from lanner._core import PAGE_POSITIONS, Step


class Pages(RuleBasedStateMachine):
    """Sequences come, grow, share and leave; nobody may ever get a page that somebody else writes."""

    @initialize(n_pages=st.integers(1, 12))
    def make(self, n_pages):
        self.manager = PageManager(n_pages)
        self.tables: list[array] = []

    def used(self):
        return {page for table in self.tables for page in table}

    @rule(n_positions=st.integers(0, 13 * PAGE_POSITIONS), which=st.integers(0, 5))
    def reserve(self, n_positions, which):
        if which >= len(self.tables):
            self.tables.append(array("i"))
        table = self.tables[min(which, len(self.tables) - 1)]
        before, taken, n_free = list(table), self.used(), self.manager.n_free
        n_wanted = max(0, -(-n_positions // PAGE_POSITIONS) - len(table))
        fits = self.manager.reserve(table, n_positions)
        assert fits == (n_wanted <= n_free)
        assert list(table[: len(before)]) == before
        assert len(table) == len(before) + (n_wanted if fits else 0)
        assert not taken & set(table[len(before) :])

    @precondition(lambda self: self.tables)
    @rule(which=st.integers(0, 5), n=st.integers(0, 3))
    def share(self, which, n):
        source = self.tables[which % len(self.tables)]
        table, n = array("i"), min(n, len(source))
        self.manager.share(table, source, n)
        assert table == source[:n]
        self.tables.append(table)

    @precondition(lambda self: self.tables)
    @rule(which=st.integers(0, 5))
    def release(self, which):
        table = self.tables.pop(which % len(self.tables))
        self.manager.release(table)
        assert not table

    @invariant()
    def every_page_is_free_or_used(self):
        if hasattr(self, "manager"):
            assert self.manager.n_free == self.manager.n_pages - len(self.used())


TestPages = Pages.TestCase
TestPages.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_pages_come_back_last_in_first_out():
    manager, table = PageManager(8), array("i")
    assert manager.reserve(table, 3 * PAGE_POSITIONS)
    assert list(table) == [0, 1, 2]
    manager.release(table)
    assert manager.reserve(table, 1)
    assert list(table) == [0]


def test_pages_refuse():
    manager, table = PageManager(2), array("i")
    assert manager.reserve(table, 33)
    with pytest.raises(ValueError, match="share: 3 pages of 2 into a table of 0, wanted an empty table"):
        manager.share(array("i"), table, 3)
    with pytest.raises(ValueError, match="share: 1 pages of 2 into a table of 2, wanted an empty table"):
        manager.share(table, table, 1)
    with pytest.raises(ValueError, match="PageManager: n_pages is 0, wanted at least 1"):
        PageManager(0)


def sequence(ids, pages, sampling=(0.0, 0.0, 1.0, 0.0)):
    return SimpleNamespace(
        token_ids=array("i", ids), pages=array("i", pages), sampling=sampling, uniform=lambda p: p / 1024
    )


@st.composite
def chunk(draw):
    n = draw(st.integers(1, 100))
    start = draw(st.integers(0, n - 1))
    count = draw(st.integers(1, min(n - start, 12)))
    ids = draw(st.lists(st.integers(0, 2**31 - 1), min_size=n, max_size=n))
    n_pages = draw(st.integers(-(-(start + count) // PAGE_POSITIONS), 4))
    pages = draw(st.lists(st.integers(0, 99), min_size=n_pages, max_size=n_pages))
    temperature = draw(st.sampled_from((0.0, 0.5)))
    sampling = (temperature, draw(st.integers(0, 50)) * 1.0, 0.5, 0.25)
    return sequence(ids, pages, sampling), start, count, draw(st.integers(0, min(count, 6)))


@given(chunks=st.lists(chunk(), min_size=1, max_size=4))
@settings(deadline=None)
def test_fill_step(chunks):
    step = Step(48, 4, 24, 4)
    fill_step(StepViews(step), chunks)
    ids, positions, seqs, rows, sampling = [], [], [], [], []
    for q, (s, start, count, n_outputs) in enumerate(chunks):
        for i in range(count):
            if i >= count - n_outputs:
                rows.append(len(ids))
                sampling.append((*s.sampling, s.uniform(start + i) if s.sampling[0] else 0.0))
            ids.append(s.token_ids[start + i])
            positions.append(start + i)
            seqs.append(q)
        assert step.seq_starts[q] == len(ids) - count
        assert step.kv_lens[q] == start + count
        assert step.block_tables[q, : len(s.pages)].tolist() == list(s.pages)
    assert (step.n_tokens, step.n_seqs, step.n_outputs) == (len(ids), len(chunks), len(rows))
    assert step.seq_starts[len(chunks)] == len(ids)
    assert step.token_ids[: len(ids)].tolist() == ids
    assert step.positions[: len(ids)].tolist() == positions
    assert step.token_seqs[: len(ids)].tolist() == seqs
    assert step.output_rows[: len(rows)].tolist() == rows
    assert np.array_equal(step.sampling[: len(rows)], np.array(sampling, np.float32).reshape(-1, 5))


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([(4, 0, 5, 1)], "starts at 0 with 5 tokens and 1 outputs, its sequence has 4 tokens"),
        ([(4, 4, 1, 1)], "starts at 4 with 1 tokens and 1 outputs, its sequence has 4 tokens"),
        ([(4, -1, 2, 1)], "starts at -1 with 2 tokens"),
        ([(4, 0, 0, 0)], "starts at 0 with 0 tokens"),
        ([(4, 0, 2, 3)], "with 2 tokens and 3 outputs"),
        ([(40, 32, 1, 1)], "ends at position 33 with 1 pages of 32, wanted enough and at most 2"),
        ([(9, 0, 9, 1)], "9 tokens, 1 sequences and 1 outputs, room is for 8, 2 and 3"),
        ([(4, 0, 4, 0), (5, 0, 5, 0)], "9 tokens, 2 sequences and 0 outputs, room is for 8, 2 and 3"),
        ([(1, 0, 1, 0)] * 3, "3 tokens, 3 sequences and 0 outputs, room is for 8, 2 and 3"),
        ([(4, 0, 4, 4)], "4 tokens, 1 sequences and 4 outputs, room is for 8, 2 and 3"),
    ],
)
def test_fill_step_never_writes_past_its_arrays(chunks, message):
    views = StepViews(Step(8, 2, 3, 2))
    with pytest.raises(ValueError, match=f"fill_step: .*{message}"):
        fill_step(views, [(sequence(range(n), [0]), *rest) for n, *rest in chunks])


def test_fill_step_refuses_a_long_table():
    with pytest.raises(
        ValueError, match="ends at position 1 with 3 pages of 32, wanted enough and at most 2"
    ):
        fill_step(StepViews(Step(8, 2, 3, 2)), [(sequence([1], [0, 1, 2]), 0, 1, 1)])
