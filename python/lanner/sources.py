"""What the targets of an encoder-decoder attend to, and which share of the cross cache it has."""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Iterable, Sequence
from typing import Protocol

from lanner._records import dataclass


class Target(Protocol):
    """A sequence that the decoder continues; `lanner.sequence` has the rest of it."""

    source: Source

    @property
    def is_finished(self) -> bool:
        """Whether it will be in no further step."""


class Source:
    """What one or several targets attend to, `token_ids` (array of int32); it is encoded once for all."""

    def __init__(self, token_ids: Iterable[int]) -> None:
        self.token_ids = array("i", token_ids)
        self._targets: list[weakref.ref[Target]] = []  # they refer to it

    def serve(self, target: Target) -> None:
        """Keys and values are kept until all targets that it is to serve have ended."""
        self._targets.append(weakref.ref(target))

    @property
    def is_finished(self) -> bool:
        """Whether no target needs it any more."""
        return all((target := ref()) is None or target.is_finished for ref in self._targets)


@dataclass
class Place:
    """A share of the cross cache, and whether the keys and values of its source are there."""

    index: int
    is_encoded: bool = False


class Places:
    """Deals `n_places` to sources. One that waits may lose its place to one of the next step."""

    def __init__(self, n_places: int) -> None:
        self._places: dict[Source, Place] = {}  # the one that was used last is last
        self._free = list(range(n_places))

    def __getitem__(self, source: Source) -> Place:
        return self._places[source]

    def __contains__(self, source: Source) -> bool:
        return source in self._places

    def __len__(self) -> int:
        return len(self._places)

    def deal(self, sources: Sequence[Source]) -> None:
        """Gives each of the sources of a step a place, at most n_places of them."""
        for source in [source for source in self._places if source.is_finished]:
            self._free.append(self._places.pop(source).index)
        for source in sources:
            place = self._places.pop(source) if source in self._places else Place(self._find(sources))
            self._places[source] = place

    def _find(self, sources: Sequence[Source]) -> int:
        """A place that is free, or that of the source which has waited longest."""
        if not self._free:
            oldest = next(source for source in self._places if source not in sources)
            self._free.append(self._places.pop(oldest).index)
        return self._free.pop()
