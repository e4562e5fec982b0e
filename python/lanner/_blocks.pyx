# cython: language_level=3, boundscheck=False, wraparound=False
"""Pages of the KV cache, and the arrays of a step: the loops over integers between two steps."""

from cpython cimport array
from libc.string cimport memcpy

import array

from lanner._core import PAGE_POSITIONS

cdef int c_page_positions = PAGE_POSITIONS


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


cdef class StepViews:
    """The arrays of a `_core.Step`, looked up once."""

    cdef object step
    cdef int max_tokens, max_seqs, max_outputs, max_pages
    cdef int[::1] token_ids, positions, token_seqs, seq_starts, kv_lens, output_rows
    cdef int[:, ::1] block_tables
    cdef float[:, ::1] sampling

    def __init__(self, step):
        self.step = step
        self.max_tokens, self.max_seqs = step.max_tokens, step.max_seqs
        self.max_outputs, self.max_pages = step.max_outputs, step.max_pages
        views = step.memoryviews()
        self.token_ids, self.positions, self.token_seqs = views["token_ids"], views["positions"], views["token_seqs"]
        self.seq_starts, self.kv_lens, self.output_rows = views["seq_starts"], views["kv_lens"], views["output_rows"]
        self.block_tables, self.sampling = views["block_tables"], views["sampling"]


def fill_step(StepViews to not None, chunks):
    """Writes a step from chunks (sequence, start, n_tokens, n_outputs), in their order.

    A chunk computes n_tokens of its sequence from position start, where all before are cached, and wants
    logits of the last n_outputs. A sequence has `token_ids` and `pages`, both `array("i")`,
    `sampling` (temperature, top_k, top_p, min_p) and `uniform(position)`, asked only where temperature > 0.
    """
    cdef array.array ids, pages
    cdef int start, count, n_outputs, n_tokens = 0, n_seqs = 0, n_rows = 0, i, row
    for sequence, start, count, n_outputs in chunks:
        ids, pages = sequence.token_ids, sequence.pages
        check_chunk(to, ids, pages, start, count, n_outputs, n_tokens, n_seqs, n_rows)
        memcpy(&to.token_ids[n_tokens], ids.data.as_ints + start, count * sizeof(int))
        memcpy(&to.block_tables[n_seqs, 0], pages.data.as_ints, len(pages) * sizeof(int))
        for i in range(count):
            to.positions[n_tokens + i] = start + i
            to.token_seqs[n_tokens + i] = n_seqs
        to.seq_starts[n_seqs] = n_tokens
        to.kv_lens[n_seqs] = start + count
        n_tokens += count
        n_seqs += 1
        for i in range(n_outputs):
            to.output_rows[n_rows + i] = n_tokens - n_outputs + i
        fill_sampling(to, sequence, n_rows, n_outputs, start + count - n_outputs)
        n_rows += n_outputs
    to.seq_starts[n_seqs] = n_tokens
    to.step.n_tokens, to.step.n_seqs, to.step.n_outputs = n_tokens, n_seqs, n_rows


cdef fill_sampling(StepViews to, sequence, int first_row, int n_rows, int position):
    cdef float temperature, top_k, top_p, min_p
    cdef int i
    if n_rows == 0:
        return
    temperature, top_k, top_p, min_p = sequence.sampling
    for i in range(n_rows):
        to.sampling[first_row + i, 0] = temperature
        to.sampling[first_row + i, 1] = top_k
        to.sampling[first_row + i, 2] = top_p
        to.sampling[first_row + i, 3] = min_p
        to.sampling[first_row + i, 4] = sequence.uniform(position + i) if temperature > 0 else 0.0


cdef check_chunk(StepViews to, array.array ids, array.array pages, int start, int count, int n_outputs,
                 int n_tokens, int n_seqs, int n_rows):
    if not (start >= 0 and 1 <= count <= len(ids) - start and 0 <= n_outputs <= count):
        raise ValueError(
            f"fill_step: a chunk starts at {start} with {count} tokens and {n_outputs} outputs, its sequence "
            f"has {len(ids)} tokens"
        )
    if not start + count <= len(pages) * c_page_positions or len(pages) > to.max_pages:
        raise ValueError(
            f"fill_step: a chunk ends at position {start + count} with {len(pages)} pages of "
            f"{c_page_positions}, wanted enough and at most {to.max_pages}"
        )
    if n_tokens + count > to.max_tokens or n_seqs == to.max_seqs or n_rows + n_outputs > to.max_outputs:
        raise ValueError(
            f"fill_step: {n_tokens + count} tokens, {n_seqs + 1} sequences and {n_rows + n_outputs} outputs, "
            f"room is for {to.max_tokens}, {to.max_seqs} and {to.max_outputs}"
        )
