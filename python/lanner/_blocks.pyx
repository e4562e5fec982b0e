# cython: language_level=3, wraparound=False
"""Pages of the KV cache, and the arrays of a step: the loops over integers between two steps."""

cimport cython
from cpython cimport array
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.long cimport PyLong_AsUnsignedLongLongMask
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

import array
from collections import OrderedDict

from lanner._core import PAGE_POSITIONS

cdef int c_page_positions = PAGE_POSITIONS

include "_pages.pxi"


cdef class BlockManager:
    """Hands out the pages of the cache and finds again what earlier sequences began with.

    Layers with the same window form a group, which has pages of its own. A page is taken from the free ones
    that were used before, last in, first out; from untouched ones as long as fewer than n_kept were ever
    touched; from the cached ones, the least recently used first; from the untouched ones that are left. So
    what is kept of finished sequences makes no process larger than n_kept pages or than running ones once did.

    K and V of a page are a function of the token ids up to its end, to the last bit: where two sequences
    computed the same ids, one page serves both.

    Args:
        groups: (n_pages, n_kept, window) of each: its pages, see above, and how many positions a token sees,
            its own included; 0 means all.
    """

    cdef list pools  # by group
    cdef PrefixIndex index
    cdef list copies  # (group, source, target)

    def __init__(self, groups):
        cdef Pool pool
        self.pools = [Pool(group, *numbers) for group, numbers in enumerate(groups)]
        if not self.pools:
            raise ValueError("BlockManager: there are no groups, wanted at least one")
        for pool in self.pools:
            if not (1 <= pool.n_kept <= pool.n_pages and pool.window >= 0):
                raise ValueError(
                    f"BlockManager: group {pool.group} has n_pages {pool.n_pages}, n_kept {pool.n_kept} and window "
                    f"{pool.window}, wanted 1 <= n_kept <= n_pages and 0 <= window"
                )
        self.index, self.copies = PrefixIndex(self.pools), []

    def n_pages(self, int group):
        """All pages of a group."""
        return (<Pool>self.pools[group]).n_pages

    def n_free(self, int group):
        """Pages of a group that no table uses; cached ones are among them."""
        return (<Pool>self.pools[group]).n_free()

    def n_cached_pages(self, int group):
        """Pages of a group that a prefix keeps and no table uses."""
        return len((<Pool>self.pools[group]).cached)

    def has_room(self, BlockTable table not None, int n_positions):
        """Whether every group has the free pages that `table` lacks for n_positions, of which n_kept at a time."""
        cdef int n_wanted = (n_positions + c_page_positions - 1) // c_page_positions
        cdef Pool pool
        for pool in self.pools:
            if min(n_wanted - len(<array.array>table.rows[pool.group]), pool.n_kept) > pool.n_free():
                return False
        return True

    def table(self):
        """An empty table."""
        cdef BlockTable table = BlockTable.__new__(BlockTable)
        table.manager = self
        self._empty(table)
        return table

    def match(self, BlockTable table not None, array.array token_ids not None, int n_most):
        """Begins an empty table with cached pages of these ids, as many as there are, at most n_most positions.

        Returns the positions, whole pages. In every group, whatever the token after them sees is there.
        """
        cdef array.array n_last = array.array("i", bytes(len(self.pools) * sizeof(int)))  # pages without a gap
        cdef list chain = []  # prefixes of one page, of two, ...
        cdef Prefix prefix = self.index.root
        cdef Pool pool
        cdef array.array row
        cdef int n = 0, n_matched = 0, page
        cdef bint is_complete
        self._check(
            table, table.is_empty and n_most <= len(token_ids),
            "match", n_most, len(token_ids), "an empty table, and no more than there are tokens",
        )
        while (n + 1) * c_page_positions <= n_most:
            prefix = self.index.find(prefix, token_ids.data.as_ints + n * c_page_positions)
            if prefix is None:
                break
            chain.append(prefix)
            n += 1
            is_complete = True
            for pool in self.pools:
                page = prefix.pages.data.as_ints[pool.group]
                n_last.data.as_ints[pool.group] = n_last.data.as_ints[pool.group] + 1 if page >= 0 else 0
                if n - n_last.data.as_ints[pool.group] > pool.first_seen(n * c_page_positions):
                    is_complete = False
            if is_complete:
                n_matched = n
        for pool in self.pools:
            row = table.rows[pool.group]
            table.n_behind.data.as_ints[pool.group] = pool.first_seen(n_matched * c_page_positions)
            row.extend(array.array("i", [-1]) * table.n_behind.data.as_ints[pool.group])
            for prefix in chain[len(row) : n_matched]:
                page = prefix.pages.data.as_ints[pool.group]
                pool.use(page)
                row.append(page)
        if n_matched:
            self._hold(table, chain[n_matched - 1], n_matched)
        return n_matched * c_page_positions

    def reserve(self, BlockTable table not None, int start, int n_positions):
        """Gives a table room for n_positions, of which the first `start` are cached and the others get written.

        Pages that the token at `start` does not see are given back, whatever comes of the rest. Pages that
        others use too are replaced by new ones; what they hold is to be copied, see `take_copies`.
        False, and no page is taken, where a group has too few.
        """
        cdef int n_wanted = (n_positions + c_page_positions - 1) // c_page_positions
        cdef int first = start // c_page_positions, i
        cdef array.array row = table.rows[0]
        cdef Pool pool
        self._check(
            table, table.n_indexed * c_page_positions <= start <= min(n_positions, len(row) * c_page_positions),
            "reserve", start, n_positions, "all that is in the index, at most what the pages hold",
        )
        fits = True
        for pool in self.pools:
            row = table.rows[pool.group]
            for i in range(table.n_behind.data.as_ints[pool.group], pool.first_seen(start)):
                pool.give_back(row.data.as_ints[i])
                row.data.as_ints[i] = -1
                table.n_behind.data.as_ints[pool.group] += 1
            n_missing = max(0, n_wanted - len(row))
            for i in range(first, min(n_wanted, len(row))):
                n_missing += not pool.is_writable(row.data.as_ints[i])
            if n_missing > pool.n_free():
                fits = False
        if not fits:
            return False
        for pool in self.pools:
            row = table.rows[pool.group]
            for i in range(first, min(n_wanted, len(row))):
                if not pool.is_writable(row.data.as_ints[i]):
                    self._replace(pool, row, i, i * c_page_positions < start)
            while len(row) < n_wanted:
                row.append(self.index.take(pool))
        return True

    def take_copies(self):
        """(group, source, target) of pages to be copied, in this order, before the next step runs; then none."""
        copies, self.copies = self.copies, []
        return copies

    def fork(self, BlockTable source not None, int n_positions=-1):
        """A table of the same pages, the one that is partly filled included; with n_positions, of so many alone.

        None where one of them was given back that the token behind them sees.
        """
        cdef BlockTable table = self.table()
        cdef array.array row = source.rows[0]
        cdef Prefix prefix = source.prefix
        cdef Pool pool
        cdef int i, n_indexed = source.n_indexed, n_pages
        if n_positions < 0:
            n_positions = len(row) * c_page_positions
        n_pages = (n_positions + c_page_positions - 1) // c_page_positions
        self._check(
            source, n_pages <= len(row), "fork", n_positions, len(row) * c_page_positions, "what its pages hold"
        )
        for pool in self.pools:
            if source.n_behind.data.as_ints[pool.group] > pool.first_seen(n_positions):
                return None
        table.n_behind = source.n_behind[:]
        for pool in self.pools:
            row = table.rows[pool.group] = source.rows[pool.group][:n_pages]
            for i in range(table.n_behind.data.as_ints[pool.group], n_pages):
                pool.use(row.data.as_ints[i])
        while n_indexed * c_page_positions > n_positions:
            prefix, n_indexed = prefix.parent, n_indexed - 1
        self._hold(table, prefix, n_indexed)
        return table

    def commit(self, BlockTable table not None, array.array token_ids not None, int n_cached):
        """Enters pages that n_cached tokens fill into the prefix index; those that are there already take less."""
        cdef array.array row = table.rows[0]
        self._check(
            table, n_cached <= min(len(token_ids), len(row) * c_page_positions),
            "commit", n_cached, len(token_ids), "no more than there are tokens and the pages hold",
        )
        while (table.n_indexed + 1) * c_page_positions <= n_cached:
            self._enter(table, token_ids.data.as_ints + table.n_indexed * c_page_positions)

    def release(self, BlockTable table not None):
        """Empties a table. The pages that a prefix keeps stay as cached, the last one to be forgotten first."""
        cdef array.array row
        cdef Pool pool
        cdef int i
        self._check(table, True, "release", 0, 0, "")
        for pool in self.pools:
            row = table.rows[pool.group]
            for i in range(len(row) - 1, table.n_behind.data.as_ints[pool.group] - 1, -1):
                pool.give_back(row.data.as_ints[i])
        self._empty(table)

    def clear_cache(self):
        """Forgets the cached pages: all are free that no table uses."""
        cdef Pool pool
        for pool in self.pools:
            while pool.cached:
                self.index.forget(pool, next(iter(pool.cached)))

    cdef _check(self, BlockTable table, bint is_right, str what, int n, Py_ssize_t n_all, str wanted):
        if table.manager is not self:
            raise ValueError(f"{what}: the table is another manager's")
        if not is_right:
            raise ValueError(
                f"{what}: {n} of {n_all} positions, the table has {len(table.rows[0])} pages, {table.n_indexed} of "
                f"them in the prefix index; wanted {wanted}"
            )

    cdef _empty(self, BlockTable table):
        table.rows = [array.array("i") for _ in self.pools]
        table.n_behind = array.array("i", bytes(len(self.pools) * sizeof(int)))
        self._hold(table, self.index.root, 0)

    cdef _hold(self, BlockTable table, Prefix prefix, int n_indexed):
        prefix.n_holders += 1
        if table.prefix is not None:
            self.index.let_go(table.prefix)
        table.prefix, table.n_indexed = prefix, n_indexed

    cdef _enter(self, BlockTable table, const int* ids):
        """Enters the next page of a table, or takes the one that is known."""
        cdef Prefix prefix = self.index.find_or_add(table.prefix, ids)
        cdef array.array row
        cdef Pool pool
        cdef int page, known
        for pool in self.pools:
            row = table.rows[pool.group]
            page, known = row.data.as_ints[table.n_indexed], prefix.pages.data.as_ints[pool.group]
            if page < 0 or page == known:
                continue
            if known < 0:
                self.index.enter(pool, page, prefix)
            else:
                row.data.as_ints[table.n_indexed] = known
                pool.use(known)
                pool.give_back(page)
        self._hold(table, prefix, table.n_indexed + 1)

    cdef _replace(self, Pool pool, array.array row, int i, bint holds_cached):
        cdef int page = row.data.as_ints[i]
        row.data.as_ints[i] = self.index.take(pool)
        if holds_cached:
            self.copies.append((pool.group, page, row.data.as_ints[i]))
        pool.give_back(page)


include "_step.pxi"

include "_lookup.pxi"
