"""Keys and values in device memory: bfloat16, by layers, in pages of 32 positions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lanner import _core
from lanner._records import dataclass
from lanner.kv_cache import LayerCache, PageGroup

ITEM_BYTES = 2


@dataclass(eq=False)
class DeviceCache:
    """The layers that see the same window of positions; a page is K (n_kv_heads, 32, head_dim), then V alike.

    Memory is taken by `allocate`, all of it at once.
    """

    n_layers: int
    group: int
    layer_page_bytes: int
    n_pages: int = 0
    array: Any = None

    def allocate(self, library: Any, n_pages: int) -> None:
        """Takes memory for so many pages."""
        self.n_pages = n_pages
        self.array = library.DeviceArray(self.n_layers * n_pages * self.layer_page_bytes)

    def offset(self, layer: int, page: int = 0) -> int:
        """Where a page of a layer begins."""
        return (layer * self.n_pages + page) * self.layer_page_bytes


@dataclass(frozen=True)
class DeviceCaches:
    """The caches of a model: by group, and where each layer is."""

    caches: list[DeviceCache]
    layers: list[LayerCache]

    def copy_pages(self, copies: Iterable[tuple[int, int, int]], program: Any) -> None:
        """For every (group, source, target), page `target` becomes a copy of page `source` in all layers."""
        for group, source, target in copies:
            cache = self.caches[group]
            for page in (source, target):
                if not 0 <= page < cache.n_pages:
                    raise ValueError(f"copy_page: page is {page}, the cache has {cache.n_pages}")
            for layer in range(cache.n_layers):
                to, from_ = cache.offset(layer, target), cache.offset(layer, source)
                program.copy_within(cache.array, to, from_, cache.layer_page_bytes)

    @property
    def n_bytes(self) -> int:
        """Bytes of all pages."""
        return sum(cache.n_layers * cache.n_pages * cache.layer_page_bytes for cache in self.caches)

    def allocate(self, library: Any, groups: Sequence[PageGroup]) -> None:
        """Takes memory for the pages of the groups."""
        for cache, group in zip(self.caches, groups, strict=True):
            cache.allocate(library, group.n_pages)


def page_bytes(n_kv_heads: int, head_dim: int) -> int:
    """Bytes of a page in one layer."""
    return 2 * n_kv_heads * _core.PAGE_POSITIONS * head_dim * ITEM_BYTES


def make_caches(windows: Sequence[int], n_kv_heads: int, head_dim: int) -> DeviceCaches:
    """A cache, without memory yet, for each window that layers have, in ascending order."""
    n_bytes = page_bytes(n_kv_heads, head_dim)
    distinct = sorted(set(windows))
    caches = [DeviceCache(windows.count(window), group, n_bytes) for group, window in enumerate(distinct)]
    layers = [
        LayerCache(caches[distinct.index(w)], windows[:i].count(w))  # type: ignore[arg-type]
        for i, w in enumerate(windows)
    ]
    return DeviceCaches(caches, layers)
