#include "ops/step_check.h"

#include <algorithm>

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

void check_positions(const char* op, const Step& s, int32_t n_positions) {
  for (int32_t t = 0; t < s.n_tokens; ++t)
    check(s.positions[t] >= 0 && s.positions[t] < n_positions, op, ": position ", s.positions[t],
          " of token ", t, " is outside the table of ", n_positions);
}

namespace {

void check_tokens(const char* op, const Step& s, int32_t seq) {
  const int32_t first = s.seq_starts[seq], end = s.seq_starts[seq + 1];
  check(first >= 0 && first < end && end <= s.n_tokens, op, ": sequence ", seq, " has the tokens ", first,
        " to ", end, " of ", s.n_tokens);
}

// From the first page that the first token sees; those before it may be given back.
void check_pages(const char* op, const Step& s, int32_t seq, size_t g, const CacheLimits::Group& group) {
  if (!group.n_pages) return;
  const int32_t kv_len = s.kv_lens[seq], end = kv_len - (s.seq_starts[seq + 1] - s.seq_starts[seq]) + 1;
  const int32_t* pages =
      s.block_tables + (static_cast<int64_t>(g) * s.max_seqs + seq) * static_cast<int64_t>(s.max_pages);
  for (int32_t p = std::max(0, end - group.n_seen) / kPagePositions; p * kPagePositions < kv_len; ++p)
    check(pages[p] >= 0 && pages[p] < group.n_pages, op, ": page ", pages[p], " of sequence ", seq,
          g ? cat(" in group ", g) : "", " is outside the cache of ", group.n_pages);
}

void check_cached(const char* op, const Step& s, int32_t seq, const CacheLimits& limits) {
  const int32_t first = s.seq_starts[seq], end = s.seq_starts[seq + 1], kv_len = s.kv_lens[seq];
  check(kv_len >= end - first && kv_len <= int64_t{s.max_pages} * kPagePositions, op, ": sequence ", seq,
        " has a kv_len of ", kv_len, ", its table holds ", int64_t{s.max_pages} * kPagePositions);
  for (int32_t t = first; t < end; ++t)
    check(s.token_seqs[t] == seq && s.positions[t] == kv_len - (end - t), op, ": token ", t, " has position ",
          s.positions[t], " of sequence ", s.token_seqs[t], ", wanted ", kv_len - (end - t), " of ", seq);
  for (size_t g = 0; g < limits.groups.size(); ++g) check_pages(op, s, seq, g, limits.groups[g]);
  check(!limits.whole || kv_len == end - first, op, ": sequence ", seq, " has ", end - first, " of its ",
        kv_len, " positions in the step, wanted all: attention is not causal");
}

void check_cross(const char* op, const Step& s, int32_t seq, const CacheLimits& limits) {
  const int32_t cross_len = s.cross_lens[seq];
  check(cross_len >= 1 && cross_len <= int64_t{s.max_cross_pages} * kPagePositions, op, ": sequence ", seq,
        " has a cross_len of ", cross_len, ", wanted 1 to ", int64_t{s.max_cross_pages} * kPagePositions);
  for (int32_t p = 0; p * kPagePositions < cross_len; ++p) {
    const int32_t page = s.cross_tables[static_cast<int64_t>(seq) * s.max_cross_pages + p];
    check(page >= 0 && page < limits.n_cross_pages, op, ": cross page ", page, " of sequence ", seq,
          " is outside the cache of ", limits.n_cross_pages);
  }
  for (int32_t t = s.seq_starts[seq]; limits.appends_cross && t < s.seq_starts[seq + 1]; ++t)
    check(s.token_seqs[t] == seq && s.positions[t] >= 0 && s.positions[t] < cross_len, op, ": token ", t,
          " has position ", s.positions[t], " of sequence ", s.token_seqs[t], ", wanted one below ",
          cross_len, " of ", seq);
}

}  // namespace

void check_sequences(const char* op, const Step& s, const CacheLimits& limits) {
  if (limits.groups.empty() && !limits.n_cross_pages) return;
  check(limits.groups.size() <= static_cast<size_t>(s.n_groups), op, ": the step has tables of ", s.n_groups,
        " groups, the caches are of ", limits.groups.size());
  check(s.n_seqs >= 1 && s.seq_starts[0] == 0 && s.seq_starts[s.n_seqs] == s.n_tokens, op, ": ", s.n_seqs,
        " sequences do not cover the ", s.n_tokens, " tokens of the step");
  for (int32_t seq = 0; seq < s.n_seqs; ++seq) {
    check_tokens(op, s, seq);
    if (!limits.groups.empty()) check_cached(op, s, seq, limits);
    if (limits.n_cross_pages) check_cross(op, s, seq, limits);
  }
}

}  // namespace lanner
