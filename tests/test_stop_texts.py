"""The texts that end a generation."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lanner.stop_texts import StopTexts


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
        other, matcher = matcher, matcher.fork()
        other.push("ab")
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
