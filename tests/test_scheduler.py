"""The scheduler and the texts that end a generation."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanner._core import PAGE_POSITIONS, OutOfMemoryBudget
from lanner.scheduler import Scheduler
from lanner.sequence import Scoring, Sequence, StopTexts


class Endless(Sequence):
    """A sequence that takes what it gets and ends when the test says so."""

    def take(self, outputs, first_row, n_rows):
        raise AssertionError("nothing runs here")

    def finish_cancelled(self):
        self._open_gate()


def scheduler(max_tokens=16, max_outputs=4, max_seqs=1, n_pages=8):
    return Scheduler(max_tokens=max_tokens, max_outputs=max_outputs, max_seqs=max_seqs, n_pages=n_pages)


def advance(chunks):
    for chunk in chunks:
        chunk.sequence.n_cached += chunk.n_tokens


def sizes(chunks):
    return [(chunk.start, chunk.n_tokens, chunk.n_outputs) for chunk in chunks]


def test_a_prompt_goes_through_in_chunks_and_is_continued():
    s, sequence = scheduler(), Endless(range(40))
    s.add(sequence)
    for expected in ((0, 16, 0), (16, 16, 0), (32, 8, 1)):
        chunks = s.schedule()
        assert sizes(chunks) == [expected]
        advance(chunks)
    sequence.token_ids.append(7)
    assert sizes(s.schedule()) == [(40, 1, 1)]
    assert len(sequence.pages) == 2


def test_scores_want_every_row():
    s, sequence = scheduler(), Scoring(range(10), lambda start, rows: None)
    s.add(sequence)
    for expected in ((0, 4, 4), (4, 4, 4), (8, 2, 2)):
        chunks = s.schedule()
        assert sizes(chunks) == [expected]
        advance(chunks)


def test_first_come_first_served():
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


def test_pages_grow_with_the_sequence_and_come_back():
    s, sequence = scheduler(n_pages=3), Endless(range(PAGE_POSITIONS))
    s.add(sequence)
    while sequence.n_cached < PAGE_POSITIONS:
        advance(s.schedule())
    assert s.n_free_pages == 2
    sequence.token_ids.append(1)
    advance(s.schedule())
    assert s.n_free_pages == 1
    s.remove(sequence)
    assert s.n_free_pages == 3


def test_a_sequence_that_the_cache_cannot_hold():
    s, sequence = scheduler(max_tokens=PAGE_POSITIONS, n_pages=1), Endless(range(PAGE_POSITIONS + 1))
    s.add(sequence)
    advance(s.schedule())
    with pytest.raises(OutOfMemoryBudget, match=r"0 free pages of 32 positions.* a sequence of 33 tokens"):
        s.schedule()


@given(
    lengths=st.lists(st.tuples(st.integers(1, 90), st.booleans()), min_size=1, max_size=6),
    max_tokens=st.integers(1, 40),
    max_outputs=st.integers(1, 9),
    max_seqs=st.integers(1, 4),
)
@settings(deadline=None)
def test_every_token_once_in_order_within_the_limits(lengths, max_tokens, max_outputs, max_seqs):
    s = scheduler(max_tokens, max_outputs, max_seqs, n_pages=18)
    waiting = [
        Scoring(range(n), lambda start, rows: None) if all_rows else Endless(range(n))
        for n, all_rows in lengths
    ]
    outputs = dict.fromkeys(waiting, 0)
    for sequence in waiting:
        s.add(sequence)
    while len(s):
        chunks = s.schedule()
        assert chunks
        assert len(chunks) <= max_seqs
        assert sum(chunk.n_tokens for chunk in chunks) <= max_tokens
        assert sum(chunk.n_outputs for chunk in chunks) <= max_outputs
        for sequence, start, n_tokens, n_outputs in chunks:
            assert start == sequence.n_cached
            assert len(sequence.pages) * PAGE_POSITIONS >= start + n_tokens
            outputs[sequence] += n_outputs
        advance(chunks)
        for sequence in list(s):
            if sequence.n_cached == len(sequence.token_ids):
                s.remove(sequence)
    assert s.n_free_pages == 18
    assert all(n == (len(q.token_ids) if q.wants_every_row else 1) for q, n in outputs.items())


# --- stop texts ---------------------------------------------------------------------------------------------
def first_stop(text, stops):
    """Where the text ends: read a character at a time, cut before the longest stop text that is complete."""
    for end in range(len(text) + 1):
        lengths = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if lengths:
            return text[: end - max(lengths)], True
    return text, False


@given(
    pieces=st.lists(st.text("ab\n", max_size=4), max_size=12),
    stops=st.lists(st.text("ab\n", min_size=1, max_size=5), min_size=1, max_size=3),
)
@settings(max_examples=600, deadline=None)
def test_stop_texts(pieces, stops):
    matcher, said, stopped = StopTexts(tuple(stops)), "", False
    wanted, wanted_stop = first_stop("".join(pieces), stops)
    for piece in pieces:
        text, stopped = matcher.push(piece)
        said += text
        assert wanted.startswith(said)  # nothing of a stop text is ever let pass
        if stopped:
            break
    said += "" if stopped else matcher.flush()
    assert (said, stopped) == (wanted, wanted_stop)


def test_only_what_may_become_a_stop_text_is_held():
    matcher = StopTexts(("\n\nUser", "END"))
    assert matcher.push("hello\n") == ("hello", False)
    assert matcher.push("\nUs") == ("", False)
    assert matcher.push("ual E") == ("\n\nUsual ", False)
    assert matcher.push("NDING") == ("", True)
    assert StopTexts(()).push("anything") == ("anything", False)
