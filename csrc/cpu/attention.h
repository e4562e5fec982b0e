// Fused attention over a paged cache. Rows are (token, query head) pairs that share a KV head; the kernels on
// a strip of them are in attention_strip.h.
#pragma once

#include <algorithm>

#include "cpu/attention_strip.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// A strip of rows and where its queries, keys and values lie.
struct CachedStrip : Strip {
  const AttentionArgs& a;
  const Step& step;
  const AttentionUnit& u;
  const int32_t* pages;
  int group_heads;

  CachedStrip(std::byte* scratch, const AttentionArgs& args, const Step& s, const AttentionUnit& unit)
      : Strip(scratch, unit.n_tokens * args.group_heads(), args.cache->head_dim, args.cache->value_dim),
        a(args),
        step(s),
        u(unit),
        pages(pages_of(*args.cache, s, unit.seq, args.cross)),
        group_heads(args.group_heads()) {}

  int token(int r) const { return u.first_token + r / group_heads; }
  int head(int r) const { return u.kv_head * group_heads + r % group_heads; }
  const std::byte* key(int position) const {
    return a.cache->key(a.layer, pages[position / kPagePositions], u.kv_head) +
           static_cast<size_t>(position % kPagePositions) * dim * element_bytes(a.cache->type);
  }
  const std::byte* value(int position) const {  // of a whole page
    return a.cache->value(a.layer, pages[position / kPagePositions], u.kv_head);
  }
  const float* key_scales(int position) const {
    return a.cache->key_scales(a.layer, pages[position / kPagePositions], u.kv_head) +
           position % kPagePositions;
  }
  const float* value_scales(int position) const {
    return a.cache->value_scales(a.layer, pages[position / kPagePositions], u.kv_head) +
           position % kPagePositions;
  }
  int first_seen() const { return starts[0]; }  // both ascend with the row
  int end_seen() const { return limits[n_rows - 1]; }
};

// Scores of n_blocks <= 2 blocks of a page's keys, the first of them block `block` of the tile; memory brings
// the page at `next`, if there is one, meanwhile.
template <KvType type>
LANNER_INLINE void score_page(const Strip& s, const std::byte* keys, int block, int n_blocks,
                              const std::byte* next) {
  constexpr int64_t kVectorBytes = 16 * element_bytes(type);
  for_row_groups(s.n_rows, [&](auto n, int r) LANNER_INLINE_LAMBDA {
    constexpr int vectors = n_vectors(n);
    const float* q = s.q + r * s.dim;
    float* p = s.p + r * kTilePositions + 16 * block;
    NextLines lines = NextLines::of(next, keys, r == 0 ? vectors * kVectorBytes : 0);
    if (vectors == 2 && n_blocks == 2)
      return score_rows<type, n, vectors>(q, keys, s.dim, p, s.dim * kVectorBytes, lines);
    for (int b = 0; b < n_blocks; ++b, lines.p += s.dim * lines.step)
      score_rows<type, n>(q, keys + b * s.dim * kVectorBytes, s.dim, p + 16 * b, 0, lines);
  });
}

// A page's part of a tile: n positions from `start`.
struct PagePart {
  const std::byte* values;
  int start, n;

  int clamp(int position) const {
    const int j = position - start;
    return j < 0 ? 0 : j < n ? j : n;
  }
};

// Positions first <= j < end of a page into the sums of row r, which are multiplied by alpha before. Apart
// from the tile kernels: few rows need it, and inside it would cost them registers.
template <KvType type>
[[gnu::noinline]] void mix_row(const Strip& s, const PagePart& page, int r, int first, int end,
                               const float* alpha) {
  const int64_t row_bytes = int64_t{s.value_dim} * element_bytes(type);
  const float* p = s.p + r * kTilePositions + page.start % kTilePositions + first;
  for (int d = 0; d < s.value_dim; d += 16)
    mix_rows<type, 1>(p, page.values + first * row_bytes + d * element_bytes(type), row_bytes, end - first,
                      s.value_dim, s.chunk.out + r * s.value_dim + d, alpha);
}

// A page into the sums of all rows, which are multiplied by alpha before; `next` as above. What a row may not
// see it does not touch, not even with a weight of zero: it may be infinite. `whole`: all rows see all of the
// page.
template <KvType type>
LANNER_INLINE void mix_page(const Strip& s, const PagePart& page, bool whole, const float* alpha,
                            const std::byte* next) {
  constexpr int64_t kVectorBytes = 16 * element_bytes(type);
  const int64_t row_bytes = s.value_dim / 16 * kVectorBytes;
  const float* p = s.p + page.start % kTilePositions;
  for_row_groups(s.n_rows, [&](auto n, int r) LANNER_INLINE_LAMBDA {
    // Starts and limits ascend: all rows see first <= j < end; a row may see more before and behind it.
    int first = 0, end = page.n;
    bool starts_even = true, ends_even = true;
    if (!whole) {
      first = page.clamp(s.starts[r + n - 1]), end = page.clamp(s.limits[r]);
      end = end < first ? first : end;
      starts_even = page.clamp(s.starts[r]) == first, ends_even = page.clamp(s.limits[r + n - 1]) == end;
    }
    for (int i = r; !starts_even && i < r + n; ++i) {
      const int limit = page.clamp(s.limits[i]);
      mix_row<type>(s, page, i, page.clamp(s.starts[i]), limit < first ? limit : first,
                    alpha ? alpha + i : nullptr);
    }
    const float* factors = alpha && starts_even ? alpha + r : nullptr;
    constexpr int vectors = n_vectors(n);
    const float* weights = p + r * kTilePositions + first;
    const std::byte* values = page.values + first * row_bytes;
    float* out = s.chunk.out + r * s.value_dim;
    NextLines lines = NextLines::of(next, values, r == 0 ? vectors * kVectorBytes : 0);
    int d = 0;
    for (; d + 16 * vectors <= s.value_dim; d += 16 * vectors, values += vectors * kVectorBytes) {
      mix_rows<type, n, vectors>(weights, values, row_bytes, end - first, s.value_dim, out + d, factors,
                                 kVectorBytes, lines);
      lines.p += (end - first) * lines.step;
    }
    for (; d < s.value_dim; d += 16, values += kVectorBytes)
      mix_rows<type, n>(weights, values, row_bytes, end - first, s.value_dim, out + d, factors);
    for (int i = r + 1; !ends_even && i < r + n; ++i)
      mix_row<type>(s, page, i, end, page.clamp(s.limits[i]), nullptr);
  });
}

// --- scores --------------------------------------------------------------------------------------------
// The bias of 16 keys whose distance j - i from the query ascends from `distance`, out of 2 reach + 1.
inline F32 load_bias(const float* bias, int reach, int64_t distance) {
  if (distance >= -reach && distance + 15 <= reach) return load(bias + reach + distance);
  float lanes[16];
  for (int lane = 0; lane < 16; ++lane) {
    const int64_t x = distance + lane;
    lanes[lane] = bias[reach + (x < -reach ? -reach : x > reach ? reach : x)];
  }
  return load(lanes);
}

// Cap and bias of the scores of a tile, from block `first` on.
inline void adjust_scores(const CachedStrip& s, int tile_start, int first) {
  const float cap = s.a.softcap;
  const int n_cols = s.a.bias_cols();
  for (int r = 0; r < s.n_rows; ++r)
    for (int i = 16 * first; i < kTilePositions; i += 16) {
      float* p = s.p + r * kTilePositions + i;
      F32 x = load(p);
      if (cap > 0) x = set1(cap) * tanh(x * set1(1.0f / cap));
      if (n_cols)
        x = x + load_bias(s.a.bias.data + int64_t{s.head(r)} * n_cols, n_cols / 2,
                          int64_t{tile_start} + i - s.step.positions[s.token(r)]);
      store(p, x);
    }
}

// Scores become weights; -inf stands where a row sees nothing.
inline void weigh(const CachedStrip& s, int tile_start, int first) {
  if (s.a.softcap > 0 || s.a.bias.size) adjust_scores(s, tile_start, first);
  const F32 unseen = set1(-__builtin_inff());
  auto before_limit = [&](int r, int i, F32 x) LANNER_INLINE_LAMBDA {
    return keep_first(x, s.limits[r] - tile_start - 16 * i, unseen);
  };
  if (s.starts[s.n_rows - 1] > tile_start)
    soften(s, [&](int r, int i, F32 x) LANNER_INLINE_LAMBDA {
      return keep_first(unseen, s.starts[r] - tile_start - 16 * i, before_limit(r, i, x));
    });
  else if (s.limits[0] < tile_start + kTilePositions)
    soften(s, before_limit);
  else
    soften(s, SeeAll{});
}

// Scores or weights of a tile's n positions, from block `first` on, times the scale of each; scales(j): those
// of 16 positions from j.
template <class Scales>
LANNER_INLINE void scale_columns(const Strip& s, int tile_start, int n, int first, Scales scales) {
  for (int i = 16 * first; i < n; i += 16) {
    const F32 x = load(scales(tile_start + i));
    for (float* p = s.p + i; p < s.p + s.n_rows * kTilePositions; p += kTilePositions) store(p, load(p) * x);
  }
}

// --- one strip -----------------------------------------------------------------------------------------
// Copies a page's part of a tile as float32, so that every group of rows reads it converted.
template <KvType type>
const std::byte* as_floats(const std::byte* from, int n, float* to) {
  for (int i = 0; i < n; i += 16) store(to + i, load_cache<type>(from + i * element_bytes(type)));
  return reinterpret_cast<const std::byte*>(to);
}

// The tile's n positions; pages before the first that any row sees are left out. Values come from memory
// while scores are made, and the keys of the next tile while values are mixed.
template <KvType type>
void attend_tile(const CachedStrip& s, int tile_start, int n) {
  const bool convert = !kConvertsInRegisters && type != KvType::F32 && s.n_rows > kFloatTile;
  const int unseen = s.first_seen() > tile_start ? s.first_seen() - tile_start : 0;
  const int first_page = unseen / kPagePositions * kPagePositions;
  for (int first = first_page; first < n; first += kPagePositions) {
    const int block = first / 16, n_blocks = n - first > 16 ? 2 : 1;
    const std::byte* keys = s.key(tile_start + first);
    for (int b = 0; convert && b < n_blocks; ++b, keys += 16 * s.dim * element_bytes(type))
      score_page<KvType::F32>(s, as_floats<type>(keys, 16 * s.dim, s.keys), block + b, 1, nullptr);
    if (!convert) score_page<type>(s, keys, block, n_blocks, s.value(tile_start + first));
  }
  if constexpr (type == KvType::Q8)
    scale_columns(s, tile_start, n, first_page / 16, [&](int j) { return s.key_scales(j); });
  const bool whole = s.starts[s.n_rows - 1] <= tile_start && s.limits[0] >= tile_start + n;
  weigh(s, tile_start, first_page / 16);
  if constexpr (type == KvType::Q8)
    scale_columns(s, tile_start, n, first_page / 16, [&](int j) { return s.value_scales(j); });
  const float* alpha = s.factors;
  for (int first = first_page; first < n; first += kPagePositions, alpha = nullptr) {
    PagePart page{s.value(tile_start + first), tile_start + first, std::min(n - first, kPagePositions)};
    const int next = tile_start + first + kTilePositions;
    if (convert) {
      page.values = as_floats<type>(page.values, page.n * s.value_dim, s.values);
      mix_page<KvType::F32>(s, page, whole, alpha, nullptr);
    } else {
      mix_page<type>(s, page, whole, alpha, next < s.end_seen() ? s.key(next) : nullptr);
    }
  }
}

template <KvType type>
void attend_chunk(const CachedStrip& s, int chunk) {
  const int start = chunk * kChunkPositions, rest = s.end_seen() - start;
  const int end = rest < kChunkPositions ? start + rest : start + kChunkPositions;
  clear(s, s.chunk);
  for (int tile = start; tile < end; tile += kTilePositions)
    if (tile + kTilePositions > s.first_seen())
      attend_tile<type>(s, tile, end - tile < kTilePositions ? end - tile : kTilePositions);
}

inline void load_queries(const CachedStrip& s, const Worker& worker) {
  for (int r = 0; r < s.n_rows; ++r) {
    const float* q = s.a.q.row(worker, s.token(r)) + s.head(r) * s.dim;
    for (int d = 0; d < s.dim; ++d) s.q[r * s.dim + d] = q[d] * s.a.scale;
    const SeenKeys seen = seen_keys(s.a, s.step, s.token(r), s.u.seq);
    s.starts[r] = seen.first, s.limits[r] = seen.end;
  }
}

// Adding 0 makes a -0 that came of an underflow the 0 that it is where a chunk without weight was merged.
inline void write_rows(const CachedStrip& s, const Worker& worker) {
  for (int r = 0; r < s.n_rows; ++r) {
    const float inverse = inverse_sum(s.total.l[r]), *out = s.total.out + r * s.value_dim;
    float* to = s.a.out.row(worker, s.token(r)) + s.head(r) * s.dim;
    for (int d = 0; d < s.dim; ++d) to[d] = out[d] * inverse + 0.0f;
  }
}

inline void merge_group(const Strip& s, AttentionPlan& plan, const AttentionPlan::Group& group) {
  clear(s, s.total);
  for (int i = 0; i < group.n_units; ++i)
    merge(s, partial_at(s, plan.partials.data() + plan.units[group.first_unit + i].partial));
}

template <KvType type>
void attend(const AttentionArgs& a, const Step& step, const Worker& worker, const AttentionUnit& u) {
  const CachedStrip s(worker.scratch, a, step, u);
  load_queries(s, worker);
  if (u.chunk >= 0) {
    attend_chunk<type>(s, u.chunk);
    store_partial(s, a.plan->partials.data() + u.partial);
    const AttentionPlan::Group& group = a.plan->groups[u.group];
    std::atomic<int32_t>& pending = a.plan->n_pending[u.group];
    if (pending.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    pending.store(group.n_units, std::memory_order_relaxed);
    merge_group(s, *a.plan, group);
  } else {
    clear(s, s.total);
    for (int chunk = s.first_seen() / kChunkPositions; chunk * kChunkPositions < s.end_seen(); ++chunk) {
      attend_chunk<type>(s, chunk);
      merge(s, s.chunk);
    }
  }
  write_rows(s, worker);
}

void attention(const AttentionArgs& a, const Step& step, const Worker& worker, int begin, int end) {
  for (int i = begin; i < end; ++i) {
    const AttentionUnit& u = a.plan->units[i];
    switch (a.cache->type) {
      case KvType::F32:
        attend<KvType::F32>(a, step, worker, u);
        break;
      case KvType::F16:
        attend<KvType::F16>(a, step, worker, u);
        break;
      case KvType::Q8:
        attend<KvType::Q8>(a, step, worker, u);
        break;
    }
  }
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
