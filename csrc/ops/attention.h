// out[t][h] = sum_j softmax_j(scale * q[t][h] . k[j][g]) v[j][g], j <= position of t, g = h / (H / KH).
//
// Online softmax (Milakov and Gimelshein, 2018) over tiles of 64 positions in chunks of 256, both counted
// from position 0. A chunk starts from nothing; chunks are merged in ascending order even on one thread. So
// the bits of a row depend on its own keys and values alone: not on the rows beside it, on threads, or on how
// the prompt was cut.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "ops/kv_cache.h"

namespace lanner {

inline constexpr int kTilePositions = 64;    // four vectors of scores, and a 64 x 64 float K tile fits in L1
inline constexpr int kChunkPositions = 256;  // the unit that threads share when there is one query
inline constexpr int kStripRows = 48;        // 8 x 6 rows of queries reuse a converted K and V tile

// One piece of work: a strip of query tokens of one sequence and KV head, over all its chunks or one.
struct AttentionUnit {
  int32_t seq, kv_head, first_token, n_tokens;
  int32_t chunk;   // -1: all chunks, the result is final
  int32_t group;   // units that share a result; the last to finish merges them
  size_t partial;  // floats from the start of partials to this unit's (m, l, O) rows
};

struct AttentionPlan {
  std::vector<AttentionUnit> units;
  std::vector<float> partials;
  struct Group {
    int32_t first_unit, n_units;
  };
  std::vector<Group> groups;
  std::unique_ptr<std::atomic<int32_t>[]> n_pending;  // by group; back at n_units after every layer
  size_t n_counters = 0;
};

struct AttentionArgs {
  Rows<float> q;    // (T, at least H * D): query heads come first, rotated
  Rows<float> out;  // (T, H * D)
  const KvCache* cache;
  int32_t layer;
  int32_t n_heads;
  float scale;
  AttentionPlan* plan;  // shared by all layers of a program
};

// Cuts the step into units, the longest of each sequence first; once per step.
void prepare(AttentionPlan& plan, const AttentionArgs& a, const Step& step);

inline void check(const AttentionArgs& a) {
  const KvCache& c = *a.cache;
  check(a.layer >= 0 && a.layer < c.n_layers, "attention: layer is ", a.layer, ", the cache has ",
        c.n_layers);
  check(a.n_heads > 0 && a.n_heads % c.n_kv_heads == 0, "attention: n_heads is ", a.n_heads,
        ", wanted a multiple of n_kv_heads, ", c.n_kv_heads);
  check(a.n_heads / c.n_kv_heads <= kStripRows, "attention: ", a.n_heads, " heads over ", c.n_kv_heads,
        " KV heads, wanted at most ", kStripRows, " each");
  check_head_dim("attention", c);
  check_kind("attention", "q", a.q, RowKind::kTokens);
  check_kind("attention", "out", a.out, RowKind::kTokens);
  check(a.q.cols >= a.n_heads * c.head_dim, "attention: q has ", a.q.cols, " columns, wanted at least ",
        a.n_heads * c.head_dim);
  check_cols("attention", "out", a.out, int64_t{a.n_heads} * c.head_dim);
}
inline int units(const AttentionArgs& a, const Step&) { return static_cast<int>(a.plan->units.size()); }
inline Cost cost(const AttentionArgs& a, const Step& step) {
  const KvCache& c = *a.cache;
  Cost total;
  for (int32_t s = 0; s < step.n_seqs; ++s) {
    const double n_queries = step.seq_starts[s + 1] - step.seq_starts[s], n_keys = step.kv_lens[s];
    const double n_pairs = n_queries * (n_keys - (n_queries - 1) / 2);
    total.n_bytes += n_keys * c.n_kv_heads * (c.head_dim + c.value_dim) * info(c.format).bytes;
    total.n_flops += 4.0 * n_pairs * a.n_heads * c.head_dim;
  }
  total.n_bytes += 8.0 * step.n_tokens * a.out.cols;
  return total;
}

}  // namespace lanner
