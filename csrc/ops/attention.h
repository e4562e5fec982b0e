// out[t][h] = sum_j softmax_j(bias + cap(scale * q[t][h] . k[j][g])) v[j][g], g = h / (H / KH), over the keys
// that t sees: those up to its own position, the last of them (a window), all of its sequence, or a source's.
//
// Online softmax (Milakov and Gimelshein, 2018) over tiles of 64 positions in chunks of 256, both counted
// from position 0. A chunk starts from nothing; chunks are merged in ascending order even on one thread. A
// tile of which a row sees nothing changes none of its bits, nor does a chunk, so those that no row of a
// strip sees are left out. So the bits of a row depend on its own keys and values alone: not on the rows
// beside it, on threads, or on how the prompt was cut.
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
  int32_t chunk;   // -1: all chunks that its rows see, the result is final
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
  int32_t window = 0;  // a query at i sees the keys at j with 0 <= i - j < window; 0: all up to its own
  float softcap = 0;   // c: scores become c tanh(s / c), before bias and mask; 0: they stay
  bool causal = true;  // false: a query sees all positions of its sequence
  bool cross = false;  // keys are those of cross_tables and cross_lens, and all are seen
  // (H, 2 reach + 1) or empty: scores += bias[h][clamp(j - i, -reach, reach) + reach]
  Vector<float> bias = {};
  AttentionPlan* plan = nullptr;  // shared by the layers of a program that cut a step alike

  int32_t group_heads() const { return n_heads / cache->n_kv_heads; }
  int32_t bias_cols() const { return static_cast<int32_t>(bias.size / n_heads); }
};

// Positions first <= j < end of its keys that a query sees.
struct SeenKeys {
  int32_t first, end;
};
inline int32_t n_keys(const AttentionArgs& a, const Step& step, int32_t seq) {
  return (a.cross ? step.cross_lens : step.kv_lens)[seq];
}
inline SeenKeys seen_keys(const AttentionArgs& a, const Step& step, int32_t token, int32_t seq) {
  if (!a.causal) return {0, n_keys(a, step, seq)};
  const int32_t end = step.positions[token] + 1;
  return {a.window && a.window < end ? end - a.window : 0, end};
}

// Whether one plan serves both.
bool cuts_alike(const AttentionArgs& a, const AttentionArgs& b);

// Cuts the step into units, the longest of each sequence first; once per step.
void prepare(AttentionPlan& plan, const AttentionArgs& a, const Step& step);

void check(const AttentionArgs& a);
inline int units(const AttentionArgs& a, const Step&) { return static_cast<int>(a.plan->units.size()); }
Cost cost(const AttentionArgs& a, const Step& step);

}  // namespace lanner
