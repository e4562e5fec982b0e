"""Caches of keys and values: one for the layers of each window, with pages of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lanner import _core
from lanner._records import dataclass


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


@dataclass(frozen=True)
class CacheShape:
    """What the caches of a sequence depend on.

    `windows` has how many positions each layer sees, 0 for all up to its own; `page_bytes` is what a page
    takes in one layer, `context` the positions of a sequence and `chunk` the most tokens of it in one step.
    """

    windows: tuple[int, ...]
    page_bytes: int
    context: int
    chunk: int

    @property
    def group_windows(self) -> tuple[int, ...]:
        """The window of every layer; 0, as for layers without one, where it holds the whole context."""
        return tuple(window if window < self.context else 0 for window in self.windows)

    def n_kept(self, window: int) -> int:
        """Pages that a sequence of the whole context has at once.

        Behind a window pages are given back, but those that its edge and the chunk's end cut stay whole.
        """
        whole = -(-self.context // _core.PAGE_POSITIONS)
        return min(-(-(window + self.chunk) // _core.PAGE_POSITIONS) + 1, whole) if window else whole

    @property
    def sequence_bytes(self) -> int:
        """What a sequence of the whole context takes at once, in all layers."""
        return self.page_bytes * sum(map(self.n_kept, self.group_windows))

    def page_groups(self, n_bytes: int, max_seqs: int) -> list[PageGroup]:
        """The pages that n_bytes are enough for, but for one sequence of the whole context at least.

        Nor are there more than max_seqs of them can use. Groups are in ascending order of their windows, and
        share the bytes as such sequences do.
        """
        one = self.sequence_bytes
        n_bytes = min(max(n_bytes, one), max_seqs * one)
        kept = [(self.n_kept(window), window) for window in sorted(set(self.group_windows))]
        return [PageGroup(n * n_bytes // one, n, window) for n, window in kept]


def page_bytes(kv_dtype: str, n_kv_heads: int, head_dim: int) -> int:
    """Bytes of a page in one layer."""
    return _core.KvCache(kv_dtype, 1, 1, n_kv_heads, head_dim).page_bytes


def make_caches(
    kv_dtype: str, windows: Sequence[int], groups: Sequence[PageGroup], n_kv_heads: int, head_dim: int
) -> KvCaches:
    """A cache for each of the groups that layers of these windows belong to."""
    caches = [
        _core.KvCache(kv_dtype, windows.count(group.window), group.n_pages, n_kv_heads, head_dim, g)
        for g, group in enumerate(groups)
    ]
    of_window = {group.window: cache for group, cache in zip(groups, caches, strict=True)}
    layers = [LayerCache(of_window[w], windows[:i].count(w)) for i, w in enumerate(windows)]
    return KvCaches(list(groups), caches, layers)
