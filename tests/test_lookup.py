"""Where the last tokens stood before: the hash chains against a search that looks at everything."""

from __future__ import annotations

import math
import time
from array import array
from itertools import cycle, islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanner._blocks import Lookup, n_alike
from lanner.drafts import MOST_DRAFTS, Copying

LONGEST, PLACES = 64, 256  # as in _lookup.pxi


def naive(ids: list[int], n: int) -> tuple[int, int]:
    """The last of the places before n with the longest text in front that ends the first n ids as well."""
    best = (0, 0)
    places = [place for place in range(2, n) if n > 2 and ids[place - 2 : place] == ids[n - 2 : n]]
    for place in reversed(places[-PLACES:]):
        length = 0
        while length < min(place, LONGEST) and ids[place - 1 - length] == ids[n - 1 - length]:
            length += 1
        if length > best[1]:
            best = (place, length)
    return best


TEXTS = st.one_of(
    st.lists(st.integers(0, 2), max_size=120),
    st.lists(st.sampled_from([0, 1, 2**31 - 1]), max_size=30).map(lambda ids: ids * 4),
    st.tuples(st.lists(st.integers(0, 9), max_size=80), st.lists(st.integers(0, 9), max_size=9)).map(
        lambda parts: [*parts[0], *parts[1], *parts[0]]
    ),
)


@given(TEXTS)
@settings(deadline=None)
def test_find_is_the_longest_and_the_last(text):
    ids = array("i")
    lookup = Lookup(ids)
    for n, id in enumerate(text, start=1):
        ids.append(id)
        assert lookup.find(n) == naive(text, n)


@given(TEXTS, st.integers(1, 7))
@settings(deadline=None)
def test_find_may_be_asked_now_and_then(text, each):
    ids = array("i", text)
    lookup = Lookup(ids)
    for n in range(0, len(text) + 1, each):
        assert lookup.find(n) == naive(text, n)


@given(TEXTS, TEXTS, st.integers(0, 9))
def test_n_alike(a, b, n):
    b = a[:n] + b
    wanted = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert n_alike(array("i", a), array("i", b)) == wanted


def test_long_matches_and_many_places():
    text = [*range(100), 7, *range(100)]
    assert Lookup(array("i", text)).find(len(text)) == (100, LONGEST)
    text = [1, 2] * 500
    assert Lookup(array("i", text)).find(1000) == naive(text, 1000) == (998, LONGEST)
    text = [9, 1, 2, *(i for k in range(PLACES) for i in (k + 10, 1, 2)), 9, 1, 2]  # the best is one too far
    assert Lookup(array("i", text)).find(len(text)) == naive(text, len(text)) == (len(text) - 3, 2)


def test_a_continuation_goes_on_beyond_the_end():
    ids = array("i", [5, 1, 2, 3, 1, 2, 3])
    assert Lookup(ids).continuation(4, 8).tolist() == [1, 2, 3] * 2 + [1, 2]
    assert Lookup(ids).continuation(1, 3).tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="continuation: place 7 of 7 ids"):
        Lookup(ids).continuation(7, 1)
    with pytest.raises(ValueError, match="find: 8 ids, there are 7"):
        Lookup(ids).find(8)


@given(TEXTS.filter(len))
@settings(deadline=None)
def test_what_is_followed_is_a_copy(text):
    """Nothing is followed only where a search finds nothing; else what is in front agrees, and goes on so."""
    ids = array("i")
    copying = Copying(ids)
    for n, id in enumerate(text, start=1):
        ids.append(id)
        copying.follow(n)
        chances, place, length = copying.chances(MOST_DRAFTS), copying._place, copying._length
        assert chances == sorted(chances, reverse=True)
        if place < 0:
            assert naive(text, n) == (0, 0)
            assert not chances
            continue
        assert 0 < place < n
        assert text[place - length : place] == text[n - length : n]
        assert all(0 < chance < 1 for chance in chances)
        copying.ask(MOST_DRAFTS)
        assert copying.answer(math.inf).tolist() == list(islice(cycle(text[place:n]), MOST_DRAFTS))


@given(st.lists(st.integers(0, 99), min_size=3, max_size=50, unique=True))
def test_a_text_that_repeats_itself_is_foreseen(period):
    text = period * 3
    ids = array("i", text[: len(period) + 1])
    copying = Copying(ids)
    for n in range(len(period) + 2, len(text)):
        ids.append(text[n - 1])
        copying.follow(n)
        copying.ask(MOST_DRAFTS)
        assert copying.answer(math.inf).tolist() == list(islice(cycle(period), n, n + MOST_DRAFTS))


def test_a_replaced_token_does_not_end_a_copy():
    source = list(range(50, 90))
    ids = array("i", [*source, 7, 8])
    copying = Copying(ids)
    for token in [*source[:20], 5]:
        copying.follow(0)
        ids.append(token)
    copying.follow(0)
    assert copying.chances(3)
    copying.ask(3)
    assert copying.answer(math.inf).tolist() == source[21:24]  # source[20] was replaced by 5


def test_a_token_costs_less_than_five_microseconds():
    """Ten times that is allowed here, on a machine that does other things."""
    text = [i * i % 211 for i in range(4000)] * 2
    lookup = Lookup(array("i", text))
    started = time.process_time()
    for n in range(2, len(text)):
        lookup.find(n)
    assert (time.process_time() - started) / len(text) < 50e-6
