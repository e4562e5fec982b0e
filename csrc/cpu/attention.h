// Fused attention over a paged cache. Rows are (token, query head) pairs that share a KV head.
//
//   scores   S = q K^T: positions in the lanes, K is stored that way, so nothing is summed across lanes
//   softmax  running maximum and sum, once per tile of 64 positions
//   mix      O = O * alpha + P V: D in the lanes
#pragma once

#include <utility>

#include "cpu/sources.h"
#include "ops/attention.h"
#include "simd/math.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// Running state of a row: O is the sum of exp(s - m) v, l of exp(s - m).
struct RowState {
  float m, l;
};

// Everything that a strip of rows keeps in scratch; n_rows <= kStripRows.
struct Strip {
  int n_rows, dim, value_dim;
  int* limits;       // (n_rows) positions that the row may see
  float* q;          // (n_rows, D) scaled
  float* p;          // (n_rows, 64) scores, then weights of a tile
  RowState* chunk;   // (n_rows) state of the current chunk
  float* chunk_out;  // (n_rows, Dv)
  RowState* total;   // (n_rows) chunks merged so far
  float* total_out;  // (n_rows, Dv)
  float* keys;       // (4, D, 16) a tile as float32
  float* values;     // (64, Dv)

  Strip(std::byte* scratch, int rows, int d, int dv) : n_rows(rows), dim(d), value_dim(dv) {
    auto take = [&](size_t bytes) { return std::exchange(scratch, scratch + (bytes + 63) / 64 * 64); };
    limits = reinterpret_cast<int*>(take(sizeof(int) * rows));
    q = reinterpret_cast<float*>(take(sizeof(float) * rows * d));
    p = reinterpret_cast<float*>(take(sizeof(float) * rows * kTilePositions));
    chunk = reinterpret_cast<RowState*>(take(sizeof(RowState) * rows));
    chunk_out = reinterpret_cast<float*>(take(sizeof(float) * rows * dv));
    total = reinterpret_cast<RowState*>(take(sizeof(RowState) * rows));
    total_out = reinterpret_cast<float*>(take(sizeof(float) * rows * dv));
    keys = reinterpret_cast<float*>(take(sizeof(float) * kTilePositions * d));
    values = reinterpret_cast<float*>(take(sizeof(float) * kTilePositions * dv));
  }
};

template <Format format>
LANNER_INLINE F32 load_cache(const std::byte* p) {
  if constexpr (format == Format::F16)
    return load_f16(p);
  else
    return load(reinterpret_cast<const float*>(p));
}

// --- scores --------------------------------------------------------------------------------------------
// p[r][0..15] = q[r] . k over D in ascending order, for n rows and one block of 16 positions.
template <Format format, int n>
LANNER_INLINE void score_rows(const float* q, const std::byte* keys, int dim, float* p) {
  F32 acc[n];
  for (int i = 0; i < n; ++i) acc[i] = zero();
  for (int d = 0; d < dim; ++d, keys += 16 * info(format).bytes) {
    const F32 k = load_cache<format>(keys);
    for (int i = 0; i < n; ++i) acc[i] = fma(set1(q[i * dim + d]), k, acc[i]);
  }
  for (int i = 0; i < n; ++i) store(p + i * kTilePositions, acc[i]);
}

// O[r][0..15] = O + sum_j p[r][j] v[j], j ascending, for n rows and 16 columns of V.
template <Format format, int n>
LANNER_INLINE void mix_rows(const float* p, const std::byte* values, int n_positions, int value_dim,
                            float* out) {
  F32 acc[n];
  for (int i = 0; i < n; ++i) acc[i] = load(out + i * value_dim);
  for (int j = 0; j < n_positions; ++j, values += value_dim * info(format).bytes) {
    const F32 v = load_cache<format>(values);
    for (int i = 0; i < n; ++i) acc[i] = fma(set1(p[i * kTilePositions + j]), v, acc[i]);
  }
  for (int i = 0; i < n; ++i) store(out + i * value_dim, acc[i]);
}

// body(integral_constant n, first row) for groups of kFloatTile rows and what is left.
template <class Body>
LANNER_INLINE void for_row_groups(int n_rows, Body body) {
  int r = 0;
  for (; r + kFloatTile <= n_rows; r += kFloatTile) body(std::integral_constant<int, kFloatTile>{}, r);
  unroll<kFloatTile>([&](auto n) LANNER_INLINE_LAMBDA {
    if constexpr (n > 0) {
      if (n_rows - r == n) body(n, r);
    }
  });
}

template <Format format>
void score_block(const Strip& s, const std::byte* keys, int block) {
  for_row_groups(s.n_rows, [&](auto n, int r) LANNER_INLINE_LAMBDA {
    score_rows<format, n>(s.q + r * s.dim, keys, s.dim, s.p + r * kTilePositions + 16 * block);
  });
}

// Positions of a page, n_positions from `start`, into the sums of all rows. What a row may not see it does
// not touch, not even with a weight of zero: it may be infinite.
template <Format format>
void mix_page(const Strip& s, const std::byte* values, int start, int n_positions) {
  const size_t row_bytes = s.value_dim * info(format).bytes;
  const float* p = s.p + start % kTilePositions;
  auto n_seen = [&](int row) {
    const int n = s.limits[row] - start;
    return n < 0 ? 0 : n < n_positions ? n : n_positions;
  };
  for_row_groups(s.n_rows, [&](auto n, int r) LANNER_INLINE_LAMBDA {
    const int common = n_seen(r);  // limits ascend
    const bool even = n_seen(r + n - 1) == common;
    for (int d = 0; d < s.value_dim; d += 16) {
      const std::byte* v = values + d * info(format).bytes;
      mix_rows<format, n>(p + r * kTilePositions, v, common, s.value_dim, s.chunk_out + r * s.value_dim + d);
      for (int i = r + 1; !even && i < r + n; ++i)
        mix_rows<format, 1>(p + i * kTilePositions + common, v + common * row_bytes, n_seen(i) - common,
                            s.value_dim, s.chunk_out + i * s.value_dim + d);
    }
  });
}

// --- softmax -------------------------------------------------------------------------------------------
// Turns the scores of one row into weights, the first n_valid of 64; rescales what the chunk has so far.
inline void soften(float* p, int n_valid, RowState& state, float* out, int value_dim) {
  if (n_valid <= 0) {
    for (int i = 0; i < kTilePositions; i += 16) store(p + i, zero());
    return;
  }
  const F32 lowest = set1(-__builtin_inff());
  F32 s[4];
  for (int i = 0; i < 4; ++i) s[i] = keep_first(load(p + 16 * i), n_valid - 16 * i, lowest);
  const float highest = hmax(max(max(s[0], s[1]), max(s[2], s[3])));
  const float m = highest > state.m ? highest : state.m;
  F32 sum = zero();
  for (int i = 0; i < 4; ++i) {
    const F32 weight = keep_first(exp(s[i] - set1(m)), n_valid - 16 * i, zero());
    store(p + 16 * i, weight);
    sum = sum + weight;
  }
  if (m != state.m) {
    const float alpha = exp1(state.m - m);
    state.l *= alpha;
    for (int d = 0; d < value_dim; d += 16) store(out + d, load(out + d) * set1(alpha));
  }
  state = {m, state.l + hsum(sum)};
}

// total += part, where either may have seen nothing (m = -inf, l = 0, O = 0).
inline void merge(RowState& total, float* total_out, const RowState& part, const float* part_out,
                  int value_dim) {
  if (part.l == 0) return;
  const float m = part.m > total.m ? part.m : total.m;
  const float a = exp1(total.m - m), b = exp1(part.m - m);
  for (int d = 0; d < value_dim; d += 16)
    store(total_out + d, load(total_out + d) * set1(a) + load(part_out + d) * set1(b));
  total = {m, total.l * a + part.l * b};
}

inline void clear(RowState* state, float* out, int n_rows, int value_dim) {
  for (int r = 0; r < n_rows; ++r) state[r] = {-__builtin_inff(), 0.0f};
  std::memset(out, 0, sizeof(float) * n_rows * value_dim);
}

// --- one strip -----------------------------------------------------------------------------------------
// Copies a page's part of a tile as float32, so that every group of rows reads it converted.
template <Format format>
const std::byte* as_floats(const std::byte* from, int n, float* to) {
  for (int i = 0; i < n; i += 16) store(to + i, load_cache<format>(from + i * info(format).bytes));
  return reinterpret_cast<const std::byte*>(to);
}

template <Format format>
void attend_tile(const Strip& s, const AttentionArgs& a, const int* pages, int kv_head, int tile_start,
                 int end) {
  const KvCache& c = *a.cache;
  const bool convert = format != Format::F32 && s.n_rows > kFloatTile;
  const int n = end - tile_start < kTilePositions ? end - tile_start : kTilePositions;
  for (int block = 0; block * 16 < n; ++block) {
    const int position = tile_start + 16 * block;
    const std::byte* k = c.key(a.layer, pages[position / kPagePositions], kv_head) +
                         static_cast<size_t>(position % kPagePositions) * s.dim * info(format).bytes;
    if (convert)
      score_block<Format::F32>(s, as_floats<format>(k, 16 * s.dim, s.keys), block);
    else
      score_block<format>(s, k, block);
  }
  for (int r = 0; r < s.n_rows; ++r)
    soften(s.p + r * kTilePositions, s.limits[r] - tile_start, s.chunk[r], s.chunk_out + r * s.value_dim,
           s.value_dim);
  for (int first = 0; first < n; first += kPagePositions) {
    const int n_here = n - first < kPagePositions ? n - first : kPagePositions;
    const std::byte* v = c.value(a.layer, pages[(tile_start + first) / kPagePositions], kv_head);
    if (convert)
      mix_page<Format::F32>(s, as_floats<format>(v, n_here * s.value_dim, s.values), tile_start + first,
                            n_here);
    else
      mix_page<format>(s, v, tile_start + first, n_here);
  }
}

template <Format format>
void attend_chunk(const Strip& s, const AttentionArgs& a, const int* pages, int kv_head, int chunk,
                  int kv_end) {
  const int start = chunk * kChunkPositions;
  const int end = kv_end - start < kChunkPositions ? kv_end : start + kChunkPositions;
  clear(s.chunk, s.chunk_out, s.n_rows, s.value_dim);
  for (int tile = start; tile < end; tile += kTilePositions)
    attend_tile<format>(s, a, pages, kv_head, tile, end);
}

inline void load_strip(Strip& s, const AttentionArgs& a, const Step& step, const Worker& worker,
                       const AttentionUnit& u, int group_heads) {
  for (int r = 0; r < s.n_rows; ++r) {
    const int t = u.first_token + r / group_heads, head = u.kv_head * group_heads + r % group_heads;
    const float* q = a.q.row(worker, t) + head * s.dim;
    for (int d = 0; d < s.dim; ++d) s.q[r * s.dim + d] = q[d] * a.scale;
    s.limits[r] = step.positions[t] + 1;
  }
}

inline void write_row(const AttentionArgs& a, const Worker& worker, const AttentionUnit& u, int group_heads,
                      int r, const RowState& state, const float* out, int dim) {
  const int t = u.first_token + r / group_heads, head = u.kv_head * group_heads + r % group_heads;
  float* to = a.out.row(worker, t) + head * dim;
  const float inverse = state.l > 0 ? 1.0f / state.l : state.l;  // no valid key: zeros; NaN stays NaN
  for (int d = 0; d < dim; ++d) to[d] = out[d] * inverse;
}

// Partial results of a chunk: n_rows of m, l and Dv floats.
inline void store_partial(const Strip& s, float* to) {
  for (int r = 0; r < s.n_rows; ++r, to += 2 + s.value_dim) {
    std::memcpy(to, &s.chunk[r], sizeof(RowState));
    std::memcpy(to + 2, s.chunk_out + r * s.value_dim, sizeof(float) * s.value_dim);
  }
}

inline void merge_group(const Strip& s, const AttentionPlan& plan, const AttentionPlan::Group& group) {
  clear(s.total, s.total_out, s.n_rows, s.value_dim);
  for (int i = 0; i < group.n_units; ++i) {
    const float* from = plan.partials.data() + plan.units[group.first_unit + i].partial;
    for (int r = 0; r < s.n_rows; ++r, from += 2 + s.value_dim) {
      RowState part;
      std::memcpy(&part, from, sizeof part);
      merge(s.total[r], s.total_out + r * s.value_dim, part, from + 2, s.value_dim);
    }
  }
}

template <Format format>
void attend(const AttentionArgs& a, const Step& step, const Worker& worker, const AttentionUnit& u) {
  const KvCache& c = *a.cache;
  const int group_heads = a.n_heads / c.n_kv_heads;
  Strip s(worker.scratch, u.n_tokens * group_heads, c.head_dim, c.value_dim);
  load_strip(s, a, step, worker, u, group_heads);
  const int* pages = step.block_tables + u.seq * step.max_pages;
  const int kv_end = s.limits[s.n_rows - 1];  // positions ascend within a sequence

  if (u.chunk >= 0) {
    attend_chunk<format>(s, a, pages, u.kv_head, u.chunk, kv_end);
    store_partial(s, a.plan->partials.data() + u.partial);
    const AttentionPlan::Group& group = a.plan->groups[u.group];
    std::atomic<int32_t>& pending = a.plan->n_pending[u.group];
    if (pending.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    pending.store(group.n_units, std::memory_order_relaxed);
    merge_group(s, *a.plan, group);
  } else {
    clear(s.total, s.total_out, s.n_rows, s.value_dim);
    for (int chunk = 0; chunk * kChunkPositions < kv_end; ++chunk) {
      attend_chunk<format>(s, a, pages, u.kv_head, chunk, kv_end);
      for (int r = 0; r < s.n_rows; ++r)
        merge(s.total[r], s.total_out + r * s.value_dim, s.chunk[r], s.chunk_out + r * s.value_dim,
              s.value_dim);
    }
  }
  for (int r = 0; r < s.n_rows; ++r)
    write_row(a, worker, u, group_heads, r, s.total[r], s.total_out + r * s.value_dim, s.dim);
}

void attention(const AttentionArgs& a, const Step& step, const Worker& worker, int begin, int end) {
  for (int i = begin; i < end; ++i) {
    if (a.cache->format == Format::F16)
      attend<Format::F16>(a, step, worker, a.plan->units[i]);
    else
      attend<Format::F32>(a, step, worker, a.plan->units[i]);
  }
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
