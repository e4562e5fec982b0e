"""Device memory of the values of a program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lanner.arena import Span, assign
from lanner.cuda.symbols import Launch, Place


def lay_out(
    launches: Sequence[Launch], widths: dict[Place, int], rows: dict[str, int], apart: set[Place]
) -> tuple[dict[Place, int], int]:
    """Where every value of a list lies, and the bytes of all.

    Args:
        launches: a value lives from the first that names it to the last.
        widths: bytes of an element, by place.
        rows: the most rows of each kind.
        apart: values that have memory of their own.
    """
    alive: dict[Place, Span] = {}
    for at, launch in enumerate(launches):
        for place in places_of(launch.args):
            if place not in apart:
                n_bytes = place.cols * widths[place] * rows[place.kind]
                alive.setdefault(place, Span(n_bytes, at, at)).last = at
    n_bytes = assign(list(alive.values()))
    return {place: span.offset for place, span in alive.items()}, n_bytes


def places_of(args: dict[str, Any]) -> Iterator[Place]:
    """The values that arguments name."""
    for value in args.values():
        if isinstance(value, Place):
            yield value
        elif isinstance(value, dict):
            yield from places_of(value)
