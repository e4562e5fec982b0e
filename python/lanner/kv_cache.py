"""Caches of keys and values: one for the layers of each window, with pages of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lanner import _core


class PageGroup(NamedTuple):
    """Pages of the layers that see the same window of positions.

    `n_pages` is how many there are at most, `n_kept` how many of them a sequence of the whole context has at
    once, `window` how many positions a query sees, 0 for all up to its own.
    """

    n_pages: int
    n_kept: int
    window: int


class LayerCache(NamedTuple):
    """Where the keys and values of a layer of the model are: a cache, and the layer inside it."""

    cache: _core.KvCache
    layer: int


@dataclass(frozen=True)
class KvCaches:
    """The caches of a model: `caches` by group, which `groups` describes, and `layers` by layer."""

    groups: list[PageGroup]
    caches: list[_core.KvCache]
    layers: list[LayerCache]

    def copy_pages(self, copies: Iterable[tuple[int, int, int]]) -> None:
        """For every (group, source, target), page `target` becomes a copy of page `source` in all layers."""
        for group, source, target in copies:
            self.caches[group].copy_page(source, target)


def group_windows(windows: Sequence[int], context: int) -> tuple[int, ...]:
    """The window of every layer; 0, as for layers without one, where it holds the whole context."""
    return tuple(window if window < context else 0 for window in windows)


def pages_kept(window: int, context: int, chunk: int) -> int:
    """Pages that a sequence of the whole context has at once, where a step computes `chunk` tokens at most.

    Behind a window pages are given back, but those that its edge and the chunk's end cut stay whole.
    """
    whole = -(-context // _core.PAGE_POSITIONS)
    return min(-(-(window + chunk) // _core.PAGE_POSITIONS) + 1, whole) if window else whole


def page_groups(windows: Sequence[int], context: int, chunk: int, n_sequences: int) -> list[PageGroup]:
    """A group for every window among `windows`, with pages for n_sequences of the whole context."""
    n_pages = n_sequences * pages_kept(0, context, chunk)
    return [PageGroup(n_pages, pages_kept(window, context, chunk), window) for window in sorted(set(windows))]


def make_caches(
    kv_dtype: str, windows: Sequence[int], groups: Sequence[PageGroup], n_kv_heads: int, head_dim: int
) -> KvCaches:
    """Caches for layers whose windows are `windows`; the groups are in ascending order of theirs."""
    index = {group.window: g for g, group in enumerate(groups)}
    counts = [sum(window == group.window for window in windows) for group in groups]
    caches = [
        _core.KvCache(kv_dtype, n_layers, group.n_pages, n_kv_heads, head_dim, g)
        for g, (group, n_layers) in enumerate(zip(groups, counts, strict=True))
    ]
    layers = []
    for i, window in enumerate(windows):
        layers.append(LayerCache(caches[index[window]], sum(other == window for other in windows[:i])))
    return KvCaches(list(groups), caches, layers)
