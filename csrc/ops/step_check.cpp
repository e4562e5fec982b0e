#include "ops/step_check.h"

#include "ops/kv_cache.h"

namespace lanner {

void check_token_ids(const char* op, const Step& s, int32_t vocab_size) {
  for (int32_t t = 0; t < s.n_tokens; ++t)
    check(s.token_ids[t] >= 0 && s.token_ids[t] < vocab_size, op, ": token id ", s.token_ids[t],
          " is outside the vocabulary of ", vocab_size);
}

void check_output_rows(const char* op, const Step& s) {
  for (int32_t r = 0; r < s.n_outputs; ++r)
    check(s.output_rows[r] >= 0 && s.output_rows[r] < s.n_tokens, op, ": output row ", s.output_rows[r],
          " is outside the ", s.n_tokens, " tokens of the step");
}

namespace {

void check_sequence(const char* op, const Step& s, int32_t seq, int32_t n_pages) {
  const int32_t first = s.seq_starts[seq], end = s.seq_starts[seq + 1], kv_len = s.kv_lens[seq];
  check(first >= 0 && first < end && end <= s.n_tokens, op, ": sequence ", seq, " has the tokens ", first,
        " to ", end, " of ", s.n_tokens);
  check(kv_len >= end - first && kv_len <= int64_t{s.max_pages} * kPagePositions, op, ": sequence ", seq,
        " has a kv_len of ", kv_len, ", its table holds ", int64_t{s.max_pages} * kPagePositions);
  for (int32_t t = first; t < end; ++t)
    check(s.token_seqs[t] == seq && s.positions[t] == kv_len - (end - t), op, ": token ", t, " has position ",
          s.positions[t], " of sequence ", s.token_seqs[t], ", wanted ", kv_len - (end - t), " of ", seq);
  for (int32_t p = 0; p * kPagePositions < kv_len; ++p) {
    const int32_t page = s.block_tables[static_cast<int64_t>(seq) * s.max_pages + p];
    check(page >= 0 && page < n_pages, op, ": page ", page, " of sequence ", seq, " is outside the cache of ",
          n_pages);
  }
}

}  // namespace

void check_sequences(const char* op, const Step& s, int32_t n_pages) {
  check(s.n_seqs >= 1 && s.seq_starts[0] == 0 && s.seq_starts[s.n_seqs] == s.n_tokens, op, ": ", s.n_seqs,
        " sequences do not cover the ", s.n_tokens, " tokens of the step");
  for (int32_t seq = 0; seq < s.n_seqs; ++seq) check_sequence(op, s, seq, n_pages);
}

}  // namespace lanner
