"""Memory of a program's values: first fit by lifetime, at offsets that never change after load."""

from __future__ import annotations

from bisect import insort

from lanner._records import dataclass

ALIGNMENT = 64
"""A cache line, so that two threads which write neighbouring values never share one."""


@dataclass
class Span:
    """A value that needs `n_bytes` from phase `first` to phase `last`, both included."""

    n_bytes: int
    first: int
    last: int
    offset: int = -1


def assign(spans: list[Span]) -> int:
    """Give every span an offset; spans that live in a common phase do not overlap.

    Lifetimes are counted in phases, not instructions: inside a phase the threads do not meet, so one may
    still read a value while another is several operations ahead.

    Returns:
        The bytes that the arena needs.
    """
    placed: list[Span] = []  # by offset
    total = 0
    # Largest first leaves the fewest holes.
    for span in sorted(spans, key=lambda s: -s.n_bytes):
        first, last, offset = span.first, span.last, 0
        for other in placed:
            if other.first > last or first > other.last:
                continue
            if offset + span.n_bytes <= other.offset:
                break
            offset = max(offset, _align(other.offset + other.n_bytes))
        span.offset = offset
        insort(placed, span, key=lambda p: p.offset)
        total = max(total, _align(span.offset + span.n_bytes))
    return total


def _align(n_bytes: int) -> int:
    return (n_bytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
