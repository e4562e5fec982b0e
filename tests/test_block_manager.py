"""Pages of the cache: what each promise of the block manager means, one by one."""

from __future__ import annotations

import subprocess
import sys
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


def test_the_least_recently_used_is_forgotten_first_and_its_end_before_its_beginning():
    manager, a, b = BlockManager([(4, 4, 0)]), ids(2 * PAGE), ids(2 * PAGE, 100)
    finish(manager, a)
    finish(manager, b)
    assert hit(manager, a) == 2 * PAGE
    grown(manager, PAGE)
    assert hit(manager, b) == PAGE
    assert hit(manager, a) == 2 * PAGE
    grown(manager, PAGE)
    assert hit(manager, b) == 0
    grown(manager, PAGE)
    assert hit(manager, a) == PAGE
    assert not manager.reserve(manager.table(), 0, 2 * PAGE)  # in vain: nothing is forgotten for it
    assert hit(manager, a) == PAGE


def test_what_is_kept_of_finished_prompts_touches_few_pages():
    manager = BlockManager([(8, 3, 0)])
    for first in range(0, 1000, 100):
        finish(manager, ids(2 * PAGE, first))
        assert hit(manager, ids(2 * PAGE, first)) == 2 * PAGE
    assert manager.n_cached_pages(0) == 3
    running = grown(manager, 5 * PAGE)  # forgets three, touches two
    assert sorted(running.pages(0)) == [0, 1, 2, 3, 4]
    manager.release(running)
    finish(manager, ids(2 * PAGE))
    finish(manager, ids(3 * PAGE, 100))
    assert manager.n_cached_pages(0) == 5
    finish(manager, ids(PAGE, 200))
    assert manager.n_cached_pages(0) == 5


def test_a_window_group_needs_what_the_next_token_sees():
    manager, prompt = BlockManager([(16, 16, 0), (4, 4, PAGE + 1)]), ids(4 * PAGE)
    finish(manager, prompt)
    table = manager.table()
    assert manager.match(table, prompt, 4 * PAGE) == 4 * PAGE
    assert list(table.pages(0)) == [0, 1, 2, 3]
    assert list(table.pages(1)) == [-1, -1, -1, 3]
    manager.release(table)
    grown(manager, PAGE)  # page 2 of the window group was not used for longest
    assert [hit(manager, prompt, n * PAGE) // PAGE for n in (4, 3, 2, 1)] == [4, 2, 2, 1]
    assert hit(manager, prompt, 4 * PAGE) == 4 * PAGE
    grown(manager, PAGE)  # page 1
    assert [hit(manager, prompt, n * PAGE) // PAGE for n in (4, 3, 2, 1)] == [4, 1, 1, 1]


def test_without_a_full_group_the_beginning_may_be_forgotten():
    manager, prompt = BlockManager([(3, 3, PAGE + 1)]), ids(3 * PAGE)
    finish(manager, prompt)
    assert hit(manager, prompt) == 3 * PAGE
    grown(manager, 2 * PAGE)
    assert (manager.n_cached_pages(0), hit(manager, prompt)) == (1, 3 * PAGE)
    assert (hit(manager, prompt, 2 * PAGE), hit(manager, prompt, PAGE)) == (0, 0)
    grown(manager, PAGE)
    assert hit(manager, prompt) == 0


def test_a_page_that_is_forgotten_takes_those_of_other_groups_along():
    manager = BlockManager([(2, 2, 0), (8, 8, PAGE)])
    finish(manager, ids(2 * PAGE))
    assert (manager.n_cached_pages(0), manager.n_cached_pages(1)) == (2, 2)
    grown(manager, PAGE)
    assert (manager.n_cached_pages(0), manager.n_cached_pages(1)) == (1, 1)


def test_pages_in_use_are_found_and_never_forgotten():
    manager, prompt = BlockManager([(3, 3, 0)]), ids(2 * PAGE)
    running = grown(manager, 2 * PAGE)
    manager.commit(running, prompt, 2 * PAGE)
    other = manager.table()
    assert manager.match(other, prompt, 2 * PAGE) == 2 * PAGE
    manager.clear_cache()
    manager.release(running)
    assert (manager.n_cached_pages(0), manager.n_free(0)) == (0, 1)
    assert not manager.reserve(other, 2 * PAGE, 4 * PAGE)
    assert manager.reserve(other, 2 * PAGE, 3 * PAGE)
    assert hit(manager, prompt) == 2 * PAGE
    manager.release(other)
    manager.clear_cache()
    assert (manager.n_cached_pages(0), manager.n_free(0), hit(manager, prompt)) == (0, 3, 0)


def test_a_fork_begins_within_its_source():
    manager = BlockManager([(8, 8, 0), (8, 8, PAGE)])
    source = grown(manager, 2 * PAGE)
    manager.commit(source, ids(2 * PAGE), 2 * PAGE)
    fork = manager.fork(source, PAGE + 3)
    assert list(fork.pages(0)) == [0, 1]
    manager.release(source)  # page 1 has one user, and is in the prefix index: others may find it
    assert manager.reserve(fork, PAGE + 3, PAGE + 4)
    assert manager.take_copies() == [(0, 1, 2), (1, 1, 2)]
    assert hit(manager, ids(2 * PAGE)) == 2 * PAGE
    source = grown(manager, 3 * PAGE)
    assert manager.reserve(source, 2 * PAGE + 5, 3 * PAGE)
    assert manager.fork(source, PAGE + 3) is None  # it would see what was given back
    assert manager.fork(source, 2 * PAGE + 5) is not None


def test_a_page_that_holds_nothing_yet_is_not_copied():
    manager = BlockManager([(8, 8, 0)])
    source = grown(manager, 2 * PAGE)
    fork = manager.fork(source)
    assert manager.reserve(fork, PAGE, 2 * PAGE)
    assert list(fork.pages(0)) == [0, 2]
    assert manager.take_copies() == []


LONG_PREFIX = """
import threading
from array import array
from lanner._blocks import BlockManager

def run():
    tokens, manager = array("i", bytes(4 * 32 * 20000)), BlockManager([(20000, 20000, 0)])
    table = manager.table()
    assert manager.reserve(table, 0, len(tokens))
    manager.commit(table, tokens, len(tokens))
    manager.release(table)
    matched.append(manager.match(table, tokens, len(tokens)))

matched = []
threading.stack_size(256 * 1024)
thread = threading.Thread(target=run)
thread.start()
thread.join()
assert matched == [32 * 20000]
"""


def test_a_long_prefix_ends_on_a_small_stack():
    """What 20,000 pages continue each other is not freed by as many calls within calls."""
    subprocess.run([sys.executable, "-c", LONG_PREFIX], check=True, timeout=100)


def test_block_manager_refuses():
    with pytest.raises(ValueError, match="BlockManager: there are no groups, wanted at least one"):
        BlockManager([])
    for numbers in ((0, 0, 0), (4, 5, 0), (4, 0, 0), (4, 4, -1)):
        with pytest.raises(ValueError, match=r"BlockManager: group 1 has .*, wanted 1 <= n_kept <= n_pages"):
            BlockManager([(4, 4, 0), numbers])
    manager, prompt = BlockManager([(4, 4, 0)]), ids(2 * PAGE)
    table = grown(manager, 2 * PAGE)
    manager.commit(table, prompt, PAGE)
    right = r"positions, the table has 2 pages, 1 of them in the prefix index; wanted "
    with pytest.raises(ValueError, match=f"match: 1 of 64 {right}an empty table"):
        manager.match(table, prompt, 1)
    with pytest.raises(ValueError, match="match: 65 of 64 positions"):
        manager.match(manager.table(), prompt, 65)
    for start, n in ((PAGE - 1, 2 * PAGE), (2 * PAGE, PAGE), (2 * PAGE + 1, 3 * PAGE)):
        with pytest.raises(ValueError, match=f"reserve: {start} of {n} {right}all that is in the index"):
            manager.reserve(table, start, n)
    with pytest.raises(ValueError, match=f"commit: 65 of 64 {right}no more than there"):
        manager.commit(table, prompt, 65)
    with pytest.raises(ValueError, match=f"commit: 65 of 96 {right}no more than there"):
        manager.commit(table, ids(3 * PAGE), 65)
    with pytest.raises(ValueError, match=f"fork: 65 of 64 {right}what its pages hold"):
        manager.fork(table, 65)
    other = BlockManager([(4, 4, 0)])
    for call in (
        lambda: other.match(table, prompt, 0),
        lambda: other.reserve(table, PAGE, PAGE),
        lambda: other.fork(table),
        lambda: other.commit(table, prompt, 0),
        lambda: other.release(table),
    ):
        with pytest.raises(ValueError, match=r"^\w+: the table is another manager's$"):
            call()
    assert (manager.n_free(0), other.n_free(0)) == (2, 4)
    for call in (manager.n_pages, manager.n_free, manager.n_cached_pages, table.pages, table.n_pages):
        with pytest.raises(IndexError):
            call(1)
