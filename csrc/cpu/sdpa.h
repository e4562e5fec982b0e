// Attention on whole arrays: strips of rows over all their tiles, whole or chunk by chunk.
#pragma once

#include "cpu/sdpa_tile.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// --- one strip -----------------------------------------------------------------------------------------
// Scores and weights of rows whose scores stay in L1 from here to the mix.
inline void weigh(const ArrayStrip& s, int tile, int n, NextTile& next) {
  score_tile(s, n, next);
  if (s.a.softcap > 0 || s.a.mask_kind == MaskKind::kAdditive || s.a.weights)
    for (int r = 0; r < s.n_rows; ++r)
      if (s.seen[r]) adjust_scores(s, r, tile, n);
  if (all_see(s, kAllSeen))
    soften(s, SeeAll{});
  else
    soften(s, [&](int r, int i, F32 x) LANNER_INLINE_LAMBDA {
      return keep_lanes(x, s.seen[r] >> 16 * i & 0xffff, set1(-__builtin_inff()));
    });
}

template <Format format>
void attend_tile(const ArrayStrip& s, int tile, int n) {
  const uint64_t any = look(s, tile, n);
  if (!any) return;
  const bool whole = s.a.mask_kind != MaskKind::kAdditive && all_see(s, bit_range(0, n));
  const int n_parts = (s.n_rows + kStripRows - 1) / kStripRows;
  NextTile next(s, tile,
                kTilePositions / 16 + n_parts * (kTilePositions + s.value_dim) / (16 * kFloatVectors));
  load_tile_keys<format>(s, tile, n, any, next);
  if (whole && s.n_rows <= kFloatTile && s.a.value_dim == s.value_dim) {
    weigh(s, tile, n, next);
    mix_in_place<format>(s, tile, n, next);
    return;
  }
  copy_values<format>(s.value(tile), s.a.v.row, n, s.a.value_dim, s.values);
  const bool mixable = whole || is_finite(s.values, n, s.value_dim);  // 0 * v is 0
  for (int r = 0; r < s.n_rows; r += kStripRows) {
    const ArrayStrip part = s.part(r, std::min(kStripRows, s.n_rows - r));
    weigh(part, tile, n, next);
    mixable ? mix_span(part, next) : mix_seen(part, part.values, tile);
  }
}

template <Format format>
void attend_chunk(const ArrayStrip& s, int64_t chunk) {
  const int start = static_cast<int>(chunk * kChunkPositions), rest = static_cast<int>(s.a.kv_len) - start;
  const int end = rest < kChunkPositions ? start + rest : start + kChunkPositions;
  clear(s, s.chunk);
  for (int r = 0; s.a.weights && r < s.n_rows; ++r) {
    float* weights = s.weights(r);
    for (int j = start; j < end; ++j) weights[j] = -__builtin_inff();
  }
  for (int tile = start; tile < end && tile < s.end_seen(); tile += kTilePositions)
    if (tile + kTilePositions > s.first_seen())
      attend_tile<format>(s, tile, end - tile < kTilePositions ? end - tile : kTilePositions);
}

template <Format format>
void load_queries(const ArrayStrip& s) {
  const SdpaArgs& a = s.a;
  for (int r = 0; r < s.n_rows; ++r) {
    const std::byte* q = a.q.at(s.u.batch, s.head(r), s.query(r));
    for (int d = 0; d < s.dim; d += 16, q += 16 * info(format).bytes)
      store_up_to_16<Format::F32>(reinterpret_cast<std::byte*>(s.q + r * s.dim + d),
                                  load_up_to_16<format>(q, s.dim - d) * set1(a.scale), s.dim - d);
    const int64_t position = s.query(r) + a.kv_len - a.q_len;
    s.limits[r] = static_cast<int>(a.causal ? position + 1 : a.kv_len);
    s.starts[r] = static_cast<int>(a.window && a.window <= position ? position - a.window + 1 : 0);
  }
}

// Scores become weights: exp(s - m) / l, and exactly 0 where the row may not attend.
inline void finish_weights(const ArrayStrip& s, int r) {
  const F32 m = set1(s.total.m[r]), inverse = set1(inverse_sum(s.total.l[r]));
  std::byte* p = reinterpret_cast<std::byte*>(s.weights(r));
  for (int64_t j = 0; j < s.a.kv_len; j += 16, p += 64) {
    const int n = s.a.kv_len - j < 16 ? static_cast<int>(s.a.kv_len - j) : 16;
    const F32 score = load_up_to_16<Format::F32>(p, n);
    store_up_to_16<Format::F32>(p, zero_below(exp(score - m) * inverse, score, kLowestScore), n);
  }
}

// Adding 0 makes a -0 that came of an underflow the 0 that it is in a tile with other rows.
template <Format format>
void finish_strip(const ArrayStrip& s) {
  for (int r = 0; r < s.n_rows; ++r) {
    const F32 inverse = set1(inverse_sum(s.total.l[r]));
    std::byte* out = s.a.out.at(s.u.batch, s.head(r), s.query(r));
    for (int d = 0; d < s.a.value_dim; d += 16, out += 16 * info(format).bytes)
      store_up_to_16<format>(out, load(s.total.out + r * s.value_dim + d) * inverse + zero(),
                             static_cast<int>(s.a.value_dim) - d);
    if (s.a.weights) finish_weights(s, r);
  }
}

template <Format format>
void attend_strip(const SdpaArgs& a, const SdpaUnit& u, std::byte* scratch) {
  const ArrayStrip s(scratch, a, u);
  load_queries<format>(s);
  const int64_t first = a.weights ? 0 : s.first_seen() / kChunkPositions;
  const int64_t end = a.weights ? a.kv_len : s.end_seen();
  if (first * kChunkPositions >= end) clear(s, s.total);
  for (int64_t chunk = first; chunk * kChunkPositions < end; ++chunk) {
    attend_chunk<format>(s, chunk);
    add_chunk(s, s.chunk, chunk == first);
  }
  finish_strip<format>(s);
}

template <Format format>
void attend_part(const SdpaArgs& a, const SdpaUnit& u, int64_t chunk, float* partial, std::byte* scratch) {
  const ArrayStrip s(scratch, a, u);
  load_queries<format>(s);
  attend_chunk<format>(s, chunk);
  store_partial(s, partial);
}

template <Format format>
void merge_strip(const SdpaArgs& a, const SdpaUnit& u, float* partials, std::byte* scratch) {
  const ArrayStrip s(scratch, a, u);
  for (int64_t chunk = 0; chunk < a.n_chunks(); ++chunk)
    add_chunk(s, partial_at(s, partials + chunk * static_cast<int64_t>(partial_floats(a))), chunk == 0);
  finish_strip<format>(s);
}

void sdpa_strip(const SdpaArgs& a, int64_t unit, std::byte* scratch) {
  const SdpaUnit u(a, unit);
  a.format == Format::F16 ? attend_strip<Format::F16>(a, u, scratch)
                          : attend_strip<Format::F32>(a, u, scratch);
}

void sdpa_chunk(const SdpaArgs& a, int64_t unit, int64_t chunk, float* partial, std::byte* scratch) {
  const SdpaUnit u(a, unit);
  a.format == Format::F16 ? attend_part<Format::F16>(a, u, chunk, partial, scratch)
                          : attend_part<Format::F32>(a, u, chunk, partial, scratch);
}

void sdpa_merge(const SdpaArgs& a, int64_t unit, float* partials, std::byte* scratch) {
  const SdpaUnit u(a, unit);
  a.format == Format::F16 ? merge_strip<Format::F16>(a, u, partials, scratch)
                          : merge_strip<Format::F32>(a, u, partials, scratch);
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
