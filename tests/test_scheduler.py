"""The scheduler: who advances, by how much, at whose cost."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanner._core import PAGE_POSITIONS as PAGE
from lanner._core import OutOfMemoryBudget
from lanner.scheduler import Scheduler
from lanner.sequence import Scoring, Sequence
from lanner.step_times import MOST, StepTimes


class Endless(Sequence):
    """A sequence that takes what it gets and ends when the test says so."""

    def take(self, outputs, first_row, n_rows):
        raise AssertionError("nothing runs here")

    def end(self, reason):
        self._open_gate()


def scheduler(max_tokens=16, max_outputs=4, max_seqs=1, n_pages=8, window=0):
    groups = [(n_pages, n_pages, 0)] + ([(n_pages, n_pages, window)] if window else [])
    return Scheduler(max_tokens=max_tokens, max_outputs=max_outputs, max_seqs=max_seqs, page_groups=groups)


def scoring(ids, first=0):
    return Scoring(ids, lambda *_: None, first=first)


def advance(s, chunks, seconds=0.0):
    """The step ran; sequences that score have used their rows."""
    s.commit(chunks, seconds)
    for sequence, _, _, n_outputs in chunks:
        if isinstance(sequence, Scoring):
            sequence._next += n_outputs


def sizes(chunks):
    return [(chunk.start, chunk.n_tokens, chunk.n_outputs) for chunk in chunks]


def test_a_prompt_goes_through_in_chunks_and_is_continued():
    s, sequence = scheduler(), Endless(range(40))
    s.add(sequence)
    for expected in ((0, 16, 0), (16, 16, 0), (32, 8, 1)):
        chunks = s.schedule()
        assert sizes(chunks) == [expected]
        advance(s, chunks)
    sequence.token_ids.append(7)
    assert sizes(s.schedule()) == [(40, 1, 1)]
    assert sequence.table.n_pages(0) == 2


def test_scores_want_rows_from_where_they_say():
    for first, expected in (
        (0, [(0, 4, 4), (4, 4, 4), (8, 2, 2)]),
        (7, [(0, 10, 3)]),
        (3, [(0, 7, 4), (7, 3, 3)]),
    ):
        s, sequence = scheduler(), scoring(range(10), first)
        s.add(sequence)
        for chunk in expected:
            chunks = s.schedule()
            assert sizes(chunks) == [chunk]
            advance(s, chunks)


def test_who_comes_first_is_served_first():
    s, (a, b, c) = scheduler(), (Endless([1, 2]) for _ in range(3))
    for sequence in (a, b, c):
        s.add(sequence)
    assert [chunk.sequence for chunk in s.schedule()] == [a]
    assert list(s) == [a, b, c]
    s.remove(b)
    s.remove(a)
    assert [chunk.sequence for chunk in s.schedule()] == [c]
    s.remove(c)
    assert len(s) == 0
    assert s.schedule() == []


def test_priority_goes_before_order_and_takes_a_place_that_is_taken():
    s = scheduler(max_seqs=2)
    first, second, urgent = Endless([1, 2]), Endless([3, 4], priority=1), Endless([5, 6], priority=2)
    s.add(first)
    s.add(second)
    assert [chunk.sequence for chunk in s.schedule()] == [second, first]
    advance(s, s.schedule())
    s.add(urgent)
    assert [chunk.sequence for chunk in s.schedule()] == [urgent]  # the second has nothing left to compute
    assert first.table is None
    assert first.n_cached == 0
    s.remove(urgent)
    assert [chunk.sequence for chunk in s.schedule()] == [first]


def test_pages_grow_with_the_sequence_and_come_back():
    s, sequence = scheduler(n_pages=3), Endless(range(PAGE))
    s.add(sequence)
    while sequence.n_cached < PAGE:
        advance(s, s.schedule())
    assert s.pages.n_free(0) == 2
    sequence.token_ids.append(1)
    advance(s, s.schedule())
    assert s.pages.n_free(0) == 1
    s.remove(sequence)
    assert s.pages.n_free(0) == 3


def test_a_sequence_that_the_cache_cannot_hold_fails_alone():
    s, sequence = scheduler(max_tokens=PAGE, n_pages=1), Endless(range(PAGE + 1))
    s.add(sequence)
    advance(s, s.schedule())
    later = Endless(range(100, 104))
    s.add(later)
    chunks = s.schedule()
    assert isinstance(sequence.error, OutOfMemoryBudget)
    assert "of 32 positions, all 1 are too few for a sequence of 33 tokens" in str(sequence.error)
    assert [chunk.sequence for chunk in chunks] == [later]


# --- decodes beside prompts ---------------------------------------------------------------------------------
def test_every_running_sequence_advances_beside_a_long_prompt():
    s = scheduler(max_tokens=64, max_outputs=8, max_seqs=8, n_pages=64)
    short = [Endless(range(10 * i, 10 * i + 5)) for i in range(1, 4)]
    for sequence in short:
        s.add(sequence)
    advance(s, s.schedule(), 1.0)
    s.add(Endless(range(1000)))
    while True:
        for sequence in short:
            sequence.token_ids.append(1)
        chunks = s.schedule()
        assert [chunk.sequence for chunk in chunks[:3]] == short
        assert all(chunk[2:] == (1, 1) for chunk in chunks[:3])
        if len(chunks) == 4 and chunks[3].n_outputs:
            break
        advance(s, chunks, 1.0)


@pytest.mark.parametrize("token_s", [0.02, 0.1, 0.5])
def test_a_prompt_gets_what_a_step_has_room_for(token_s):
    """A decode step of a second, a prompt token of token_s: the chunk is found that a step has room for."""
    times, steps = StepTimes(512), []
    times.observe(4, 0, 1.0)
    for _ in range(40):
        n = times.prompt_tokens(4)
        steps.append(1.0 + n * token_s)
        times.observe(4, n, steps[-1])
    # From a first guess of 16 tokens it is halved in every step that was too long.
    assert all(seconds <= MOST for seconds in steps[4:])
    assert sum(steps[-10:]) / 10 > 1.6


def test_pauses_of_the_machine_do_not_starve_a_prompt():
    times = StepTimes(512)
    times.observe(1, 0, 1.0)
    for i in range(200):
        n = times.prompt_tokens(1)
        times.observe(1, n, 1.0 + n * 0.02 + (30.0 if i % 10 == 1 and n else 0.0))
    assert times.prompt_tokens(1) >= 5
    for _ in range(200):
        n = times.prompt_tokens(1)
        times.observe(1, n, 100.0 if n else 1.0)
    assert times.prompt_tokens(1) in (0, 1)


def test_what_decodes_take_is_learned_while_prompts_keep_coming():
    times = StepTimes(512)
    assert times.prompt_tokens(8) == 0  # the first step of decodes goes alone
    times.observe(8, 0, 1.0)
    assert [times.prompt_tokens(n) > 0 for n in (3, 4, 8, 16, 17)] == [False, True, True, True, False]
    given = []
    for _ in range(200):
        given.append(times.prompt_tokens(8))
        times.observe(8, given[-1], 1.0 + given[-1] * 0.01)
    assert given.count(0) == 200 // 65
    assert max(given) > 100


# --- the same prompt ----------------------------------------------------------------------------------------
def test_a_prefix_is_found_and_counted():
    s = scheduler(max_tokens=256, max_seqs=4, n_pages=32)
    a, b = Endless(range(100)), Endless([*range(97), 5, 5])
    s.add(a)
    advance(s, s.schedule())
    s.add(b)
    assert sizes(s.schedule()) == [(96, 3, 1)]
    assert (a.n_found, b.n_found) == (0, 96)
    s.remove(a)
    s.remove(b)
    again, scored, private = Endless(range(96)), scoring(range(100), 40), Endless(range(100))
    private.shares_pages = False
    for sequence, start in ((again, 64), (scored, 32), (private, 0)):  # the last token is computed anyway
        s.add(sequence)
        assert s.schedule()[0].start == start
        s.remove(sequence)


@pytest.mark.parametrize("window", [0, 33, 64])
@pytest.mark.parametrize("n", [5, 32, 33, 64, 65, 97])
def test_who_follows_computes_the_last_token_alone(n, window):
    s = scheduler(max_tokens=256, max_outputs=8, max_seqs=8, n_pages=64, window=window)
    first = Endless(range(n))
    followers = [Endless(range(n)) for _ in range(3)]
    s.add(first)
    for each in followers:
        each.leader = first
        s.add(each)
    chunks = s.schedule()
    assert sizes(chunks) == [(0, n, 1)]
    advance(s, chunks)
    first.token_ids.append(1)
    chunks = s.schedule()
    assert sizes(chunks[:1]) == [(n, 1, 1)]
    assert sizes(chunks[1:]) == [(n - 1, 1, 1)] * 3
    n_copies = len(s.pages.take_copies())
    assert n_copies == 0 if n % PAGE == 1 else n_copies >= 3  # of a page that is partly filled
    last = [each.table.pages(0)[(n - 1) // PAGE] for each in followers]
    assert len({*last, first.table.pages(0)[n // PAGE]}) == 4


def test_who_follows_one_that_ended_goes_its_own_way():
    s, first = scheduler(max_seqs=4, n_pages=32), Endless(range(10))
    follower = Endless(range(10))
    follower.leader = first
    s.add(first)
    s.add(follower)
    s.schedule()
    first.end("cancelled")
    s.remove(first)
    assert sizes(s.schedule()) == [(0, 10, 1)]


# --- pages run out ------------------------------------------------------------------------------------------
def test_the_last_gives_way_and_comes_back():
    s = scheduler(max_tokens=64, max_seqs=2, n_pages=4)
    a, b = Endless(range(PAGE)), Endless(range(100, 100 + 2 * PAGE))
    s.add(a)
    s.add(b)
    advance(s, s.schedule())
    advance(s, s.schedule())
    assert (a.n_cached, b.n_cached) == (PAGE, 2 * PAGE)
    while b.table is not None:
        a.token_ids.append(1)
        advance(s, [chunk for chunk in s.schedule() if chunk.sequence is a])
    assert a.n_cached == 2 * PAGE + 1
    s.remove(a)
    chunks = s.schedule()
    assert chunks[0].sequence is b


@given(
    lengths=st.lists(
        st.tuples(st.integers(1, 90), st.booleans(), st.integers(0, 2), st.integers(0, 40)),
        min_size=1,
        max_size=6,
    ),
    max_tokens=st.integers(1, 40),
    max_outputs=st.integers(1, 9),
    max_seqs=st.integers(1, 4),
    n_pages=st.integers(5, 18),
    window=st.sampled_from([0, 1, 40]),
)
@settings(deadline=None, max_examples=200)
def test_every_row_once_within_the_limits(lengths, max_tokens, max_outputs, max_seqs, n_pages, window):
    """Whatever the order, priorities and lack of pages: all is computed, and every wanted row comes once."""
    s = scheduler(max_tokens, max_outputs, max_seqs, n_pages, window)
    waiting, ends = [], {}
    for i, (n, all_rows, priority, n_more) in enumerate(lengths):
        ids = [1000 * (i % 3) + k for k in range(n)]
        sequence = scoring(ids) if all_rows else Endless(ids, priority=priority)
        ends[sequence] = n if all_rows else n + n_more
        waiting.append(sequence)
        s.add(sequence)
    rows = Counter()
    for _ in range(3000):
        if not len(s):
            break
        chunks = s.schedule()
        s.pages.take_copies()
        assert chunks
        assert len(chunks) <= max_seqs
        assert sum(chunk.n_tokens for chunk in chunks) <= max_tokens
        assert sum(chunk.n_outputs for chunk in chunks) <= max_outputs
        for sequence, start, n_tokens, n_outputs in chunks:
            assert start == sequence.n_cached
            assert sequence.table.n_pages(0) * PAGE >= start + n_tokens
            for position in range(start + n_tokens - n_outputs, start + n_tokens):
                rows[sequence, position] += 1
        advance(s, chunks, 0.001)
        for sequence in list(s):
            if sequence.n_cached < len(sequence.token_ids):
                continue
            if len(sequence.token_ids) < ends[sequence]:
                sequence.token_ids.append(len(sequence.token_ids))
            else:
                s.remove(sequence)
    assert len(s) == 0
    for group in range(1 + bool(window)):
        assert s.pages.n_free(group) == n_pages
    for sequence in waiting:
        first = 0 if isinstance(sequence, Scoring) else lengths[waiting.index(sequence)][0] - 1
        assert [rows[sequence, k] for k in range(first, ends[sequence])] == [1] * (ends[sequence] - first)
