"""Values of a program, and the phases between two barriers in which they are made and read."""

from __future__ import annotations

from typing import Literal

from lanner._records import dataclass

Kind = Literal["tokens", "outputs"]
REPLICABLE = frozenset(
    {
        "gather_rows",
        "rms_norm",
        "layer_norm",
        "add",
        "scale",
        "add_positions",
        "add_gated",
        "route",
        "quantize_rows",
        "rope_table",
    }
)
"""Operations on single rows that every thread may compute for itself (csrc/program/program.h)."""


@dataclass(eq=False)
class Place:
    """Memory of a value: `cols` elements of `dtype` per row, alive from phase `first` to phase `last`.

    A matmul sees `parts` rows in each row, one after the other.
    """

    cols: int
    dtype: str
    kind: Kind
    name: str
    parts: int = 1
    replicable: bool = False
    first: int = -1
    last: int = -1


class Value:
    """What an operation made. Overwriting a place in place retires the values that lay there before.

    `codes` has its forms for matmuls, as far as they were made.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.retired = False
        self.codes: dict[str, Value] = {}

    @property
    def cols(self) -> int:
        """Elements of a row."""
        return self.place.cols

    @property
    def kind(self) -> Kind:
        """Whether a row stands for a token of the step or for a wanted output."""
        return self.place.kind


class Phase:
    """What has happened since the last barrier.

    `written` gives for every place the columns that one unit of work made of it: 0 where every thread has the
    whole (replicable operations), -1 where a unit is not a range of columns.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.has_main = False
        self.kind: Kind | None = None
        self.written: dict[Place, int] = {}
        self.read: set[Place] = set()

    def must_end_before(self, reads: list[Place], own: list[Place], writes: list[Place], unit: int) -> bool:
        """Whether an operation may start only when all threads are done with what stands before it.

        Args:
            reads: places of which a thread may need any part.
            own: places of which a thread touches only the columns that are its own.
            writes: places that change.
            unit: columns of a unit of work, 0 for a replicable operation, -1 where units are not columns.
        """
        if self.index < 0:
            return False
        if any(self.written.get(place, 0) != 0 for place in reads):
            return True  # others may still be making it
        if any(self.written.get(place, 0) not in (0, unit) for place in own):
            return True  # made in other ranges than this operation takes
        if any(place in self.read or self.written.get(place, unit) != unit for place in writes):
            return True  # others may still be reading it, or making all of it
        if unit == 0:
            # They come first in a phase, and rows of one kind share one rule (all threads, or by rows).
            return self.has_main or self.kind not in (None, writes[0].kind)
        # Operations of one phase share their units, so one joins only if it follows the maker of its columns.
        return self.has_main and not any(self.written.get(place, 0) == unit > 0 for place in own)
