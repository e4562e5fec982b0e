"""Cache pages, against a model of a few lines of Python."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lanner._blocks import PageManager
from lanner._core import PAGE_POSITIONS


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
