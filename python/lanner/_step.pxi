cdef extern from *:
    """
    static inline uint64_t mul_high(uint64_t a, uint64_t b) {
      return (uint64_t)(((unsigned __int128)a * b) >> 64);
    }
    """
    uint64_t mul_high(uint64_t a, uint64_t b)


cdef class StepViews:
    """The arrays of a `_core.Step`, looked up once."""

    cdef object step
    cdef int max_tokens, max_seqs, max_outputs, max_pages, n_groups
    cdef int[::1] token_ids, positions, token_seqs, seq_starts, kv_lens, output_rows
    cdef int[:, ::1] block_tables
    cdef float[:, ::1] sampling

    def __init__(self, step):
        self.step = step
        self.max_tokens, self.max_seqs = step.max_tokens, step.max_seqs
        self.max_outputs, self.max_pages = step.max_outputs, step.max_pages
        self.n_groups = step.n_groups
        views = step.memoryviews()
        self.token_ids, self.positions = views["token_ids"], views["positions"]
        self.token_seqs, self.seq_starts = views["token_seqs"], views["seq_starts"]
        self.kv_lens, self.output_rows = views["kv_lens"], views["output_rows"]
        self.block_tables, self.sampling = views["block_tables"], views["sampling"]


def fill_step(StepViews to not None, chunks):
    """Writes a step from chunks (sequence, start, n_tokens, n_outputs), in their order.

    A chunk computes n_tokens of its sequence from position start, where all before are cached, and wants
    logits of the last n_outputs. Behind its `token_ids` come its `drafts`, if it has any. A sequence has
    `token_ids`, an `array("i")`, and `table`, a BlockTable; `sampling`, a column of the step's array each but
    the last, of which the first is the temperature; and for the last `uniform(position)`, asked only where
    the temperature is not 0.
    """
    cdef array.array ids, drafts, row
    cdef list rows
    cdef int start, count, n_known, n_outputs, n_tokens = 0, n_seqs = 0, n_rows = 0, i
    for sequence, start, count, n_outputs in chunks:
        ids, rows = sequence.token_ids, (<BlockTable?>sequence.table).rows
        n_known = len(ids) - start
        drafts = getattr(sequence, "drafts", None) if count > n_known else None
        check_chunk(to, ids, drafts, rows, start, count, n_outputs, n_tokens, n_seqs, n_rows)
        n_known = min(n_known, count)
        memcpy(&to.token_ids[n_tokens], ids.data.as_ints + start, n_known * sizeof(int))
        if n_known < count:
            memcpy(&to.token_ids[n_tokens + n_known], drafts.data.as_ints, (count - n_known) * sizeof(int))
        for i in range(to.n_groups):
            row = rows[i]
            memcpy(&to.block_tables[i * to.max_seqs + n_seqs, 0], row.data.as_ints, len(row) * sizeof(int))
        for i in range(count):
            to.positions[n_tokens + i] = start + i
            to.token_seqs[n_tokens + i] = n_seqs
        to.seq_starts[n_seqs] = n_tokens
        to.kv_lens[n_seqs] = start + count
        n_tokens += count
        n_seqs += 1
        if n_outputs:
            fill_sampling(to, sequence, n_rows, n_outputs, start + count - n_outputs)
        for i in range(n_outputs):
            to.output_rows[n_rows + i] = n_tokens - n_outputs + i
        n_rows += n_outputs
    to.seq_starts[n_seqs] = n_tokens
    to.step.n_tokens, to.step.n_seqs, to.step.n_outputs = n_tokens, n_seqs, n_rows


cdef fill_sampling(StepViews to, sequence, int first_row, int n_rows, int position):
    cdef tuple values = sequence.sampling
    cdef Py_ssize_t last = to.sampling.shape[1] - 1
    cdef int i
    if len(values) != last:
        raise ValueError(f"fill_step: a sequence has {len(values)} sampling parameters, wanted {last}")
    for i in range(last):
        to.sampling[first_row, i] = values[i]
    for i in range(1, n_rows):
        to.sampling[first_row + i, :] = to.sampling[first_row, :]
    for i in range(n_rows):
        to.sampling[first_row + i, last] = sequence.uniform(position + i) if values[0] else 0.0


cdef check_chunk(StepViews to, array.array ids, array.array drafts, list rows, int start, int count,
                 int n_outputs, int n_tokens, int n_seqs, int n_rows):
    cdef Py_ssize_t n_pages = len(<array.array?>rows[0])
    if len(rows) != to.n_groups:
        raise ValueError(f"fill_step: a block table has {len(rows)} groups, the step has {to.n_groups}")
    cdef Py_ssize_t n_drafts = 0 if drafts is None else len(drafts)
    if not (0 <= start < len(ids) and 1 <= count <= len(ids) + n_drafts - start and 0 <= n_outputs <= count):
        raise ValueError(
            f"fill_step: a chunk starts at {start} with {count} tokens and {n_outputs} outputs, its sequence "
            f"has {len(ids)} tokens and {n_drafts} drafts"
        )
    if not start + count <= n_pages * c_page_positions or n_pages > to.max_pages:
        raise ValueError(
            f"fill_step: a chunk ends at position {start + count} with {n_pages} pages of "
            f"{c_page_positions}, wanted enough and at most {to.max_pages}"
        )
    if n_tokens + count > to.max_tokens or n_seqs == to.max_seqs or n_rows + n_outputs > to.max_outputs:
        raise ValueError(
            f"fill_step: {n_tokens + count} tokens, {n_seqs + 1} sequences and {n_rows + n_outputs} outputs, "
            f"room is for {to.max_tokens}, {to.max_seqs} and {to.max_outputs}"
        )


def uniform(uint64_t seed, uint64_t sample_index, n_generated):
    """The number in [0, 1) that draws the token after `n_generated` others; a multiple of 2**-24.

    A pure function of its arguments, so what is drawn depends on no neighbour, no order and no retry. The
    bits are Philox4x64-10's, by Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).
    n_generated counts modulo 2**64: within a prompt, where nothing is drawn, it is negative.
    """
    cdef uint64_t c0 = PyLong_AsUnsignedLongLongMask(n_generated), c1 = sample_index, c2 = 0, c3 = 0
    cdef uint64_t k0 = seed, k1 = 0, high, low
    for _ in range(10):
        low, high = 0xD2E7470EE14C6C93ULL * c0, mul_high(0xD2E7470EE14C6C93ULL, c0)
        c0 = mul_high(0xCA5A826395121157ULL, c2) ^ c1 ^ k0
        c1 = 0xCA5A826395121157ULL * c2
        c2, c3 = high ^ c3 ^ k1, low
        k0 += 0x9E3779B97F4A7C15ULL
        k1 += 0xBB67AE8584CAA73BULL
    return (c0 >> 40) * 2.0**-24  # 24 bits: what a float32 holds without rounding up to 1
