"""Pages of the cache: what each promise of the block manager means, one by one."""

from __future__ import annotations

from array import array

import pytest

from lanner._blocks import BlockManager, BlockTable
from lanner._core import PAGE_POSITIONS as PAGE


def ids(n: int, first: int = 0) -> array[int]:
    return array("i", range(first, first + n))


def grown(manager: BlockManager, n_positions: int, start: int = 0) -> BlockTable:
    table = manager.table()
    assert manager.reserve(table, start, n_positions)
    return table


def finish(manager: BlockManager, tokens: array[int]) -> None:
    """A sequence that comes, is computed whole and leaves."""
    table = manager.table()
    assert manager.reserve(table, manager.match(table, tokens, len(tokens)), len(tokens))
    manager.commit(table, tokens, len(tokens))
    manager.release(table)


def hit(manager: BlockManager, tokens: array[int], n_most: int | None = None) -> int:
    """Positions that match; nothing is different afterwards but the order of use."""
    table = manager.table()
    n = manager.match(table, tokens, len(tokens) if n_most is None else n_most)
    manager.release(table)
    return n


def test_free_pages_come_back_last_in_first_out():
    manager = BlockManager([(8, 8, 0)])
    table = grown(manager, 3 * PAGE)
    assert list(table.pages(0)) == [0, 1, 2]
    manager.release(table)
    assert table.is_empty
    assert list(grown(manager, 1).pages(0)) == [0]


def test_a_prefix_is_found_in_whole_pages():
    manager = BlockManager([(8, 8, 0)])
    finish(manager, ids(3 * PAGE + 5))
    assert (manager.n_cached_pages(0), manager.n_free(0)) == (3, 8)
    table = manager.table()
    assert manager.match(table, ids(4 * PAGE), 4 * PAGE) == 3 * PAGE
    assert list(table.pages(0)) == [0, 1, 2]
    assert (manager.n_cached_pages(0), manager.n_free(0)) == (0, 5)
    assert hit(manager, ids(4 * PAGE), 3 * PAGE - 1) == 2 * PAGE
    assert hit(manager, ids(PAGE - 1)) == 0
    other = ids(3 * PAGE)
    other[PAGE] += 1
    assert hit(manager, other) == PAGE
    other[0] += 1
    assert hit(manager, other) == 0


def test_the_same_page_of_ids_is_another_after_another_beginning():
    manager = BlockManager([(8, 8, 0)])
    finish(manager, ids(PAGE) + ids(PAGE, 100))
    finish(manager, ids(PAGE, 50) + ids(PAGE, 200))
    assert hit(manager, ids(PAGE, 50) + ids(PAGE, 100)) == PAGE


def test_a_fork_copies_the_page_that_is_written():
    manager = BlockManager([(8, 8, 0)])
    source = grown(manager, PAGE + 5)
    fork = manager.fork(source)
    assert list(fork.pages(0)) == list(source.pages(0)) == [0, 1]
    assert manager.n_free(0) == 6
    assert manager.reserve(fork, PAGE + 5, PAGE + 6)
    assert manager.take_copies() == [(0, 1, 2)]
    assert manager.take_copies() == []
    assert manager.reserve(source, PAGE + 5, PAGE + 6)  # it is alone with its page now
    assert manager.take_copies() == []
    assert (list(source.pages(0)), list(fork.pages(0))) == ([0, 1], [0, 2])
    manager.release(source)
    manager.release(fork)
    assert manager.n_free(0) == 8


def test_pages_behind_the_window_are_given_back():
    manager = BlockManager([(8, 4, PAGE)])
    table = grown(manager, 2 * PAGE)
    assert manager.reserve(table, 2 * PAGE - 2, 2 * PAGE)  # sees itself and the 31 before
    assert list(table.pages(0)) == [0, 1]
    assert manager.reserve(table, 2 * PAGE - 1, 2 * PAGE + 1)
    assert list(table.pages(0)) == [-1, 1, 0]
    assert (table.n_pages(0), manager.n_free(0)) == (2, 6)


def test_all_groups_get_their_pages_or_none():
    manager = BlockManager([(8, 8, 0), (2, 2, PAGE)])
    table = manager.table()
    assert not manager.reserve(table, 0, 3 * PAGE)
    assert table.is_empty
    assert (manager.n_free(0), manager.n_free(1)) == (8, 2)


def test_what_two_computed_becomes_one_page():
    manager = BlockManager([(8, 8, 0)])
    first, second = grown(manager, PAGE), grown(manager, PAGE)
    manager.commit(first, ids(PAGE), PAGE)
    manager.commit(second, ids(PAGE), PAGE)
    assert list(first.pages(0)) == list(second.pages(0)) == [0]
    assert manager.n_free(0) == 7


def test_block_manager_refuses():
    with pytest.raises(ValueError, match="BlockManager: there are no groups, wanted at least one"):
        BlockManager([])
    for numbers in ((0, 0, 0), (4, 5, 0), (4, 0, 0), (4, 4, -1)):
        with pytest.raises(ValueError, match=r"BlockManager: group 1 has .*, wanted 1 <= n_kept <= n_pages"):
            BlockManager([(4, 4, 0), numbers])
