"""The block manager once more, in plain Python: slow, and nothing is looked up that can be counted."""

from __future__ import annotations

from dataclasses import dataclass, field

from lanner._core import PAGE_POSITIONS as PAGE


@dataclass
class ModelTable:
    rows: list[list[int]]
    n_indexed: int = 0

    def used(self, group: int) -> list[int]:
        return [page for page in self.rows[group] if page >= 0]


@dataclass
class ModelPool:
    n_pages: int
    n_kept: int
    window: int
    n_touched: int = 0
    free: list[int] = field(default_factory=list)
    resident: dict[tuple[int, ...], int] = field(default_factory=dict)  # by all ids up to its end
    cached: list[int] = field(default_factory=list)  # least recently used first

    def first_seen(self, position: int) -> int:
        return next(p for p in range(position + 1) if not self.window or position - p < self.window) // PAGE

    def is_resident(self, page: int) -> bool:
        return page in self.resident.values()


class BlockModel:
    def __init__(self, groups: list[tuple[int, int, int]]) -> None:
        self.pools = [ModelPool(*numbers) for numbers in groups]
        self.tables: list[ModelTable] = []
        self.copies: list[tuple[int, int, int]] = []

    def n_users(self, group: int, page: int) -> int:
        return sum(table.rows[group].count(page) for table in self.tables)

    def n_free(self, group: int) -> int:
        used = {page for table in self.tables for page in table.used(group)}
        return self.pools[group].n_pages - len(used)

    def table(self) -> ModelTable:
        self.tables.append(ModelTable([[] for _ in self.pools]))
        return self.tables[-1]

    def match(self, table: ModelTable, ids: list[int], n_most: int) -> int:
        for n in range(n_most // PAGE, 0, -1):
            seen = [range(pool.first_seen(n * PAGE), n) for pool in self.pools]
            if all(
                tuple(ids[: (i + 1) * PAGE]) in pool.resident
                for pool, pages in zip(self.pools, seen, strict=True)
                for i in pages
            ):
                break
        else:
            return 0
        for row, pool, pages in zip(table.rows, self.pools, seen, strict=True):
            row += [-1] * pages.start + [pool.resident[tuple(ids[: (i + 1) * PAGE])] for i in pages]
            pool.cached = [page for page in pool.cached if page not in row]
        table.n_indexed = n
        return n * PAGE

    def reserve(self, table: ModelTable, start: int, n_positions: int) -> bool:
        n_wanted = -(-n_positions // PAGE)
        missing = []
        for group, (pool, row) in enumerate(zip(self.pools, table.rows, strict=True)):
            for i in range(pool.first_seen(start)):
                page, row[i] = row[i], -1
                self.give_back(group, page)
            shared = [
                i
                for i, page in enumerate(row)
                if start // PAGE <= i < n_wanted and (self.n_users(group, page) > 1 or pool.is_resident(page))
            ]
            missing.append((shared, range(len(row), n_wanted)))
        if any(len(a) + len(b) > self.n_free(group) for group, (a, b) in enumerate(missing)):
            return False
        for group, (shared, new) in enumerate(missing):
            row = table.rows[group]
            for i in shared:
                page, row[i] = row[i], self.take(group)
                if i * PAGE < start:
                    self.copies.append((group, page, row[i]))
                self.give_back(group, page)
            for _ in new:
                row.append(self.take(group))
        return True

    def commit(self, table: ModelTable, ids: list[int], n_cached: int) -> None:
        for i in range(table.n_indexed, n_cached // PAGE):
            for group, (pool, row) in enumerate(zip(self.pools, table.rows, strict=True)):
                page = row[i]
                if page >= 0:
                    row[i] = pool.resident.setdefault(tuple(ids[: (i + 1) * PAGE]), page)
                    pool.cached = [other for other in pool.cached if other != row[i]]
                    if row[i] != page:
                        self.give_back(group, page)
            table.n_indexed = i + 1

    def has_room(self, n_positions: int) -> bool:
        n_wanted = -(-n_positions // PAGE)
        return all(min(n_wanted, pool.n_kept) <= self.n_free(g) for g, pool in enumerate(self.pools))

    def fork(self, source: ModelTable, n_positions: int) -> ModelTable | None:
        rows = [row[: -(-n_positions // PAGE)] for row in source.rows]
        if any(-1 in row[pool.first_seen(n_positions) :] for pool, row in zip(self.pools, rows, strict=True)):
            return None
        self.tables.append(ModelTable(rows, min(source.n_indexed, n_positions // PAGE)))
        return self.tables[-1]

    def release(self, table: ModelTable) -> None:
        self.tables = [other for other in self.tables if other is not table]
        for group in range(len(self.pools)):
            for page in reversed(table.used(group)):
                self.give_back(group, page)

    def clear_cache(self) -> None:
        for group, pool in enumerate(self.pools):
            while pool.cached:
                self.forget(group, pool.cached[0])

    def give_back(self, group: int, page: int) -> None:
        """After it was taken out of a table."""
        if page >= 0 and not self.n_users(group, page):
            pool = self.pools[group]
            (pool.cached if pool.is_resident(page) else pool.free).append(page)

    def take(self, group: int) -> int:
        pool = self.pools[group]
        if not pool.free and pool.cached and pool.n_touched >= pool.n_kept:
            self.forget(group, pool.cached[0])
        if pool.free:
            return pool.free.pop()
        pool.n_touched += 1
        return pool.n_touched - 1

    def forget(self, group: int, page: int) -> None:
        (ids,) = [ids for ids, known in self.pools[group].resident.items() if known == page]
        for other, pool in enumerate(self.pools):
            if (other == group or not self.pools[group].window) and ids in pool.resident:
                page = pool.resident.pop(ids)
                if page in pool.cached:
                    pool.cached.remove(page)
                    pool.free.append(page)
