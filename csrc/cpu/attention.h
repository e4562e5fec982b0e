// Fused attention over a paged cache. Rows are (token, query head) pairs that share a KV head; the kernels on
// a strip of them are in attention_strip.h.
#pragma once

#include "cpu/attention_strip.h"

namespace lanner::LANNER_ISA_NS {
namespace {

template <Format format>
void score_block(const Strip& s, const std::byte* keys, int block) {
  for_row_groups(s.n_rows, [&](auto n, int r) LANNER_INLINE_LAMBDA {
    score_rows<format, n>(s.q + r * s.dim, keys, s.dim, s.p + r * kTilePositions + 16 * block);
  });
}

// Positions of a page, n_positions from `start`, into the sums of all rows, which are multiplied by alpha
// before. What a row may not see it does not touch, not even with a weight of zero: it may be infinite.
template <Format format>
void mix_page(const Strip& s, const std::byte* values, int start, int n_positions, const float* alpha) {
  const int64_t row_bytes = int64_t{s.value_dim} * info(format).bytes;
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
      mix_rows<format, n>(p + r * kTilePositions, v, row_bytes, common, s.value_dim,
                          s.chunk.out + r * s.value_dim + d, alpha ? alpha + r : nullptr);
      for (int i = r + 1; !even && i < r + n; ++i)
        mix_rows<format, 1>(p + i * kTilePositions + common, v + common * row_bytes, row_bytes,
                            n_seen(i) - common, s.value_dim, s.chunk.out + i * s.value_dim + d, nullptr);
    }
  });
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
  if (s.limits[0] >= tile_start + kTilePositions)
    soften(s, SeeAll{});
  else
    soften(s, [&](int r, int i, F32 x) LANNER_INLINE_LAMBDA {
      return keep_first(x, s.limits[r] - tile_start - 16 * i, set1(-__builtin_inff()));
    });
  for (int first = 0; first < n; first += kPagePositions) {
    const int n_here = n - first < kPagePositions ? n - first : kPagePositions;
    const std::byte* v = c.value(a.layer, pages[(tile_start + first) / kPagePositions], kv_head);
    const float* alpha = first == 0 ? s.factors : nullptr;
    if (convert)
      mix_page<Format::F32>(s, as_floats<format>(v, n_here * s.value_dim, s.values), tile_start + first,
                            n_here, alpha);
    else
      mix_page<format>(s, v, tile_start + first, n_here, alpha);
  }
}

template <Format format>
void attend_chunk(const Strip& s, const AttentionArgs& a, const int* pages, int kv_head, int chunk,
                  int kv_end) {
  const int start = chunk * kChunkPositions;
  const int end = kv_end - start < kChunkPositions ? kv_end : start + kChunkPositions;
  clear(s, s.chunk);
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
                      int r, float inverse, const float* out, int dim) {
  const int t = u.first_token + r / group_heads, head = u.kv_head * group_heads + r % group_heads;
  float* to = a.out.row(worker, t) + head * dim;
  for (int d = 0; d < dim; ++d) to[d] = out[d] * inverse;
}

inline void merge_group(const Strip& s, AttentionPlan& plan, const AttentionPlan::Group& group) {
  clear(s, s.total);
  for (int i = 0; i < group.n_units; ++i)
    merge(s, partial_at(s, plan.partials.data() + plan.units[group.first_unit + i].partial));
}

template <Format format>
void attend(const AttentionArgs& a, const Step& step, const Worker& worker, const AttentionUnit& u) {
  const KvCache& c = *a.cache;
  const int group_heads = a.n_heads / c.n_kv_heads;
  std::byte* scratch = worker.scratch;
  Strip s(scratch, u.n_tokens * group_heads, c.head_dim, c.value_dim);
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
    clear(s, s.total);
    for (int chunk = 0; chunk * kChunkPositions < kv_end; ++chunk) {
      attend_chunk<format>(s, a, pages, u.kv_head, chunk, kv_end);
      merge(s, s.chunk);
    }
  }
  for (int r = 0; r < s.n_rows; ++r)
    write_row(a, worker, u, group_heads, r, inverse_sum(s.total.l[r]), s.total.out + r * s.value_dim, s.dim);
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
