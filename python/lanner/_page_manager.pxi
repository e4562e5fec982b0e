cdef class PageManager:
    """Which pages of the cache are free, and how many sequences use each of the others.

    A block table is an `array("i")` with the page of every 32 positions of a sequence. It belongs to its
    sequence and is changed only here. Pages come back last in, first out: a page that was written is resident
    already, so a process touches no more of the cache than it ever used at once.
    """

    cdef array.array _free  # stack; the page that is handed out next is the last
    cdef array.array _n_users  # (n_pages)

    def __init__(self, int n_pages):
        if n_pages < 1:
            raise ValueError(f"PageManager: n_pages is {n_pages}, wanted at least 1")
        self._free = array.array("i", range(n_pages - 1, -1, -1))
        self._n_users = array.array("i", bytes(n_pages * sizeof(int)))

    @property
    def n_pages(self):
        return len(self._n_users)

    @property
    def n_free(self):
        return len(self._free)

    def reserve(self, array.array table not None, int n_positions):
        """Extends `table` to n_positions; False, and nothing is changed, where too few pages are free."""
        cdef Py_ssize_t n_wanted = (n_positions + c_page_positions - 1) // c_page_positions - len(table)
        cdef int page
        if n_wanted > len(self._free):
            return False
        for _ in range(n_wanted):
            page = self._free.pop()
            self._n_users.data.as_ints[page] = 1
            table.append(page)
        return True

    def share(self, array.array table not None, array.array source not None, Py_ssize_t n_pages):
        """Begins an empty `table` with the first n_pages of `source`, full pages that neither writes again."""
        if len(table) or not 0 <= n_pages <= len(source):
            raise ValueError(
                f"share: {n_pages} pages of {len(source)} into a table of {len(table)}, wanted an empty table"
            )
        for page in source[:n_pages]:
            self._n_users.data.as_ints[<int> page] += 1
            table.append(page)

    def release(self, array.array table not None):
        """Empties `table`; pages that no other sequence uses are free again."""
        cdef int page
        for page in reversed(table):
            self._n_users.data.as_ints[page] -= 1
            if self._n_users.data.as_ints[page] == 0:
                self._free.append(page)
        array.resize(table, 0)
