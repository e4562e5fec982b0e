@cython.trashcan(True)  # a chain is as deep as a sequence has pages
cdef class Prefix:
    """Whole pages of token ids from position 0 on, and the cache page of the last of them in every group.

    It is in the index as long as it has a page, a longer one continues it or a table begins with it.
    """

    cdef Prefix parent
    cdef bytes key  # in the index
    cdef array.array pages  # (n_groups); -1: not in the cache
    cdef int n_holders

    def __cinit__(self, Prefix parent, bytes key, Py_ssize_t n_groups):
        self.parent, self.key = parent, key
        self.pages = array.array("i", [-1]) * n_groups


cdef class Pool:
    """The pages of one group: how many tables use each, which are free, which a prefix keeps."""

    cdef int group, n_pages, n_kept, window
    cdef array.array free  # stack of pages that were used before
    cdef array.array n_users  # of every page that was ever taken; the pages behind them are untouched
    cdef list prefixes  # of these pages, the prefix that ends with it or None
    cdef object cached  # OrderedDict of the pages that a prefix keeps and no table uses, oldest use first

    def __cinit__(self, int group, int n_pages, int n_kept, int window):
        self.group, self.n_pages, self.n_kept, self.window = group, n_pages, n_kept, window
        self.free, self.n_users = array.array("i"), array.array("i")
        self.prefixes, self.cached = [], OrderedDict()

    cdef Py_ssize_t n_free(self):
        return self.n_pages - len(self.n_users) + len(self.free) + len(self.cached)

    cdef int first_seen(self, int position):
        """The first page that the token at this position sees."""
        return max(0, position - self.window + 1) // c_page_positions if self.window else 0

    cdef bint is_writable(self, int page):
        return self.n_users.data.as_ints[page] == 1 and self.prefixes[page] is None

    cdef use(self, int page):
        if self.n_users.data.as_ints[page] == 0:
            del self.cached[page]
        self.n_users.data.as_ints[page] += 1

    cdef give_back(self, int page):
        self.n_users.data.as_ints[page] -= 1
        if self.n_users.data.as_ints[page] == 0:
            if self.prefixes[page] is None:
                self.free.append(page)
            else:
                self.cached[page] = None


cdef bytes key_of(Prefix parent, const int* ids):
    """The key of `parent` continued by a page of ids: all of them, no digest.

    The address of a parent stands for its ids: it lives as long as what continues it is in the index.
    """
    cdef Py_ssize_t address = <Py_ssize_t><void*>parent, n_bytes = c_page_positions * sizeof(int)
    cdef bytes key = PyBytes_FromStringAndSize(NULL, sizeof(address) + n_bytes)
    memcpy(PyBytes_AS_STRING(key), &address, sizeof(address))
    memcpy(PyBytes_AS_STRING(key) + sizeof(address), ids, n_bytes)
    return key


cdef class PrefixIndex:
    """The prefixes that pages are kept for, and the pools of all groups."""

    cdef list pools
    cdef dict prefixes  # by key
    cdef Prefix root  # of no page

    def __cinit__(self, list pools):
        self.pools, self.prefixes = pools, {}
        self.root = Prefix(None, b"", len(pools))
        self.root.n_holders = 1

    cdef Prefix find(self, Prefix parent, const int* ids):
        """`parent` continued by a page of ids, or None."""
        return self.prefixes.get(key_of(parent, ids))

    cdef Prefix find_or_add(self, Prefix parent, const int* ids):
        cdef bytes key = key_of(parent, ids)
        cdef Prefix prefix = self.prefixes.get(key)
        if prefix is None:
            prefix = self.prefixes[key] = Prefix(parent, key, len(self.pools))
            parent.n_holders += 1
        return prefix

    cdef let_go(self, Prefix prefix):
        prefix.n_holders -= 1
        while prefix.n_holders == 0:
            del self.prefixes[prefix.key]
            prefix = prefix.parent
            prefix.n_holders -= 1

    cdef enter(self, Pool pool, int page, Prefix prefix):
        prefix.pages.data.as_ints[pool.group] = page
        prefix.n_holders += 1
        pool.prefixes[page] = prefix

    cdef forget(self, Pool pool, int page):
        """The opposite of enter; the page is free unless a table uses it."""
        cdef Prefix prefix = pool.prefixes[page]
        cdef Pool other
        prefix.pages.data.as_ints[pool.group] = -1
        pool.prefixes[page] = None
        if pool.n_users.data.as_ints[page] == 0:
            del pool.cached[page]
            pool.free.append(page)
        if pool.window == 0:  # nothing begins with this prefix any more, whatever other groups have of it
            for other in self.pools:
                if prefix.pages.data.as_ints[other.group] >= 0:
                    self.forget(other, prefix.pages.data.as_ints[other.group])
        self.let_go(prefix)

    cdef int take(self, Pool pool) except -1:
        """A page for one user; there is one."""
        cdef int page
        if not pool.free and pool.cached and len(pool.n_users) >= pool.n_kept:
            self.forget(pool, next(iter(pool.cached)))
        if pool.free:
            page = pool.free.pop()
        else:
            page = len(pool.n_users)
            pool.n_users.append(0)
            pool.prefixes.append(None)
        pool.n_users.data.as_ints[page] = 1
        return page


cdef class BlockTable:
    """The cache pages of one sequence in every group; a BlockManager makes and changes it."""

    cdef BlockManager manager
    cdef list rows  # (n_groups) of array("i"), the page of every 32 positions; -1: given back, behind the window
    cdef array.array n_behind  # (n_groups) leading pages that were given back
    cdef Prefix prefix  # of the first n_indexed pages
    cdef int n_indexed

    def pages(self, int group):
        """The page of every 32 positions, as an array of its own; -1 where it lies behind the window."""
        return self.rows[group][:]

    def n_pages(self, int group):
        """Pages of a group that it uses."""
        return len(self.rows[group]) - self.n_behind[group]

    @property
    def is_empty(self):
        """Whether it has room for no position."""
        return len(self.rows[0]) == 0
