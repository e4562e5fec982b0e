// One tile of attention on whole arrays: K is transposed block by block into lanes, V copied column panel by
// column panel, so that the kernels of the paged cache serve both.
#pragma once

#include <algorithm>

#include "cpu/attention_strip.h"
#include "ops/sdpa.h"

namespace lanner::LANNER_ISA_NS {
namespace {

constexpr uint64_t kAllSeen = ~uint64_t{0};

// What a strip needs beyond the rows themselves. Row r sees positions starts[r] <= j < limits[r], less what
// the mask forbids; seen[r] has a bit per position of the current tile.
struct ArrayStrip : Strip {
  const SdpaArgs& a;
  SdpaUnit u;
  uint64_t* seen;

  ArrayStrip(std::byte* scratch, const SdpaArgs& args, const SdpaUnit& unit)
      : Strip(scratch, unit.n_rows, static_cast<int>(args.head_dim),
              static_cast<int>((args.value_dim + 15) / 16 * 16)),
        a(args),
        u(unit),
        seen(take<uint64_t>(scratch, unit.n_rows)) {}

  // Rows first to first + n as a strip of their own; first is a multiple of 16.
  ArrayStrip part(int first, int n) const {
    ArrayStrip p = *this;
    p.n_rows = n, p.u.first_row += first;
    p.limits += first, p.starts += first, p.seen += first, p.factors += first;
    p.q += first * dim;  // all parts use the same scores, one after the other
    p.chunk = {chunk.m + first, chunk.l + first, chunk.out + first * value_dim};
    return p;
  }

  int64_t query(int r) const { return (u.first_row + r) / a.group(); }
  int64_t head(int r) const { return u.kv_head * a.group() + (u.first_row + r) % a.group(); }
  const std::byte* key(int64_t j) const { return a.k.at(u.batch, u.kv_head, j); }
  const std::byte* value(int64_t j) const { return a.v.at(u.batch, u.kv_head, j); }
  const std::byte* mask(int r, int64_t j) const {
    return a.mask.at(u.batch, head(r), query(r)) + j * a.mask.col;
  }
  float* weights(int r) const {
    return a.weights + ((u.batch * a.heads + head(r)) * a.q_len + query(r)) * a.kv_len;
  }
  int first_seen() const { return starts[0]; }  // both ascend with the row
  int end_seen() const { return limits[n_rows - 1]; }
};

constexpr KvType kv_type(Format format) { return format == Format::F16 ? KvType::F16 : KvType::F32; }

// n <= 16 elements as float32, the other lanes 0.
template <Format format>
LANNER_INLINE F32 load_part(const std::byte* from, int n) {
  alignas(64) std::byte padded[64] = {};
  std::memcpy(padded, from, n * info(format).bytes);
  return load_cache<kv_type(format)>(padded);
}
template <Format format>
LANNER_INLINE F32 load_up_to_16(const std::byte* from, int n) {
  return n >= 16 ? load_cache<kv_type(format)>(from) : load_part<format>(from, n);
}
template <Format format>
LANNER_INLINE void store_up_to_16(std::byte* to, F32 x, int n) {
  alignas(64) std::byte padded[64];
  std::byte* at = n >= 16 ? to : padded;
  if constexpr (format == Format::F16)
    store_f16(at, x);
  else
    store(reinterpret_cast<float*>(at), x);
  if (n < 16) std::memcpy(to, padded, n * info(format).bytes);
}

// --- tiles of K and V ----------------------------------------------------------------------------------
// to[d][0..15] of n <= 16 positions; lanes beyond them repeat the last, and no row sees them.
template <Format format>
void load_keys(const std::byte* from, int64_t stride, int n, int dim, float* to) {
  for (int d = 0; d < dim; d += 16, from += 16 * info(format).bytes, to += 256) {
    if (format == Format::F32 && n == 16 && d + 16 <= dim) {
      transpose16(from, stride, to);
      continue;
    }
    alignas(64) float rows[256];
    for (int j = 0; j < 16; ++j)
      store(rows + 16 * j, load_up_to_16<format>(from + (j < n ? j : n - 1) * stride, dim - d));
    transpose16(reinterpret_cast<const std::byte*>(rows), 64, to);
  }
}

// to[d / 16][j][d % 16] = column d of position j, for n <= 64 positions, as float32. Reading a row as a whole
// lets memory stream; the mix would come back to it for every panel.
template <Format format>
void copy_values(const std::byte* from, int64_t stride, int n, int64_t dim, float* to) {
  for (int j = 0; j < n; ++j, from += stride)
    for (int d = 0; d < dim; d += 16) {
      const std::byte* at = from + d * info(format).bytes;
      store(to + d / 16 * kPanelFloats + 16 * j, load_up_to_16<format>(at, static_cast<int>(dim - d)));
    }
}

// Whether 0 * v is 0 throughout.
inline bool is_finite(const float* values, int n, int value_dim) {
  F32 sum = zero();
  for (int d = 0; d < value_dim; d += 16, values += kPanelFloats) {
    F32 column = zero();
    for (int j = 0; j < n; ++j) column = fma(load(values + 16 * j), zero(), column);
    sum = sum + column;
  }
  return hsum(sum) == 0;
}

// Calls memory for the keys and values of the tile after this one, a share at every step, so that it works
// while this one computes. Past the last position that the strip sees there is nothing to call for.
class NextTile {
 public:
  NextTile(const ArrayStrip& s, int tile, int n_steps)
      : s_(s),
        position_(tile + kTilePositions),
        end_(std::min(tile + 2 * kTilePositions, s.end_seen())),
        key_bytes_(s.dim * static_cast<int>(info(s.a.format).bytes)),
        value_bytes_(static_cast<int>(s.a.value_dim * info(s.a.format).bytes)),
        n_positions_((kTilePositions + n_steps - 1) / n_steps) {}

  void step() {
    for (int i = 0; i < n_positions_ && position_ < end_; ++i, ++position_) {
      for (int at = 0; at < key_bytes_; at += 64) prefetch_far(s_.key(position_) + at);
      for (int at = 0; at < value_bytes_; at += 64) prefetch_far(s_.value(position_) + at);
    }
  }

 private:
  const ArrayStrip& s_;
  int position_, end_, key_bytes_, value_bytes_, n_positions_;
};

// --- what a row sees -----------------------------------------------------------------------------------
// Bits first <= j < end of 64; either may lie outside.
inline uint64_t bit_range(int64_t first, int64_t end) {
  const uint64_t below_end = end <= 0 ? 0 : end >= 64 ? kAllSeen : (uint64_t{1} << end) - 1;
  return first <= 0 ? below_end : first >= 64 ? 0 : below_end & (kAllSeen << first);
}

// A bit for each of n <= 64 bytes that is not zero.
inline uint64_t true_bits(const std::byte* p, int64_t stride, int n) {
  uint64_t bits = 0;
  if (stride != 1) {
    for (int j = 0; j < n; ++j) bits |= uint64_t{p[j * stride] != std::byte{0}} << j;
    return bits;
  }
  uint64_t eights[8] = {};
  std::memcpy(eights, p, n);
  for (int i = 0; i < 8; ++i) {
    uint64_t x = eights[i];
    x |= x >> 4, x |= x >> 2, x |= x >> 1;  // bit 0 of a byte is set if any of its own is
    // The products move bit 8 i to 56 + i, and nothing else there.
    bits |= ((x & 0x0101010101010101) * 0x0102040810204080 >> 56) << 8 * i;
  }
  return bits;
}

// Fills s.seen for the n positions from `tile` on; returns what any row sees.
inline uint64_t look(const ArrayStrip& s, int tile, int n) {
  if (s.a.mask_kind != MaskKind::kMayAttend && s.starts[s.n_rows - 1] <= tile &&
      s.limits[0] >= tile + kTilePositions) {
    std::memset(s.seen, 0xff, sizeof(uint64_t) * s.n_rows);
    return kAllSeen;
  }
  uint64_t any = 0;
  for (int r = 0; r < s.n_rows; ++r) {
    uint64_t bits = bit_range(s.starts[r] - tile, s.limits[r] - tile);
    if (bits && s.a.mask_kind == MaskKind::kMayAttend) bits &= true_bits(s.mask(r, tile), s.a.mask.col, n);
    any |= s.seen[r] = bits;
  }
  return any;
}

template <int n>
LANNER_INLINE uint64_t any_of(const uint64_t* seen) {
  uint64_t any = 0;
  for (int i = 0; i < n; ++i) any |= seen[i];
  return any;
}

// --- scores --------------------------------------------------------------------------------------------
// Scores of `vectors` blocks in s.keys; those that no row of a group sees keep what they held.
template <int vectors>
void score_seen(const ArrayStrip& s, int block, const float* keys) {
  const std::byte* k = reinterpret_cast<const std::byte*>(keys);
  const int64_t block_bytes = int64_t{sizeof(float)} * s.key_block_floats();
  for_row_groups(s.n_rows, [&](auto n, int r) LANNER_INLINE_LAMBDA {
    const uint64_t any = any_of<n>(s.seen + r) >> 16 * block;
    const float* q = s.q + r * s.dim;
    float* p = s.p + r * kTilePositions + 16 * block;
    if (any & ((uint64_t{1} << 16 * vectors) - 1) & ~uint64_t{0xffff})
      score_rows<KvType::F32, n, vectors>(q, k, s.dim, p, block_bytes);
    else if (any & 0xffff)
      score_rows<KvType::F32, n>(q, k, s.dim, p);
  });
}

// Keys of the blocks of a tile that any row sees, into s.keys.
template <Format format>
void load_tile_keys(const ArrayStrip& s, int tile, int n, uint64_t any, NextTile& next) {
  for (int j = 0; j < n; j += 16, next.step())
    if (any >> j & 0xffff)
      load_keys<format>(s.key(tile + j), s.a.k.row, n - j < 16 ? n - j : 16, s.dim,
                        s.keys + j / 16 * s.key_block_floats());
}

inline void score_tile(const ArrayStrip& s, int n, NextTile& next) {
  int block = 0;
  const auto keys = [&] { return s.keys + block * s.key_block_floats(); };
  for (; 16 * (block + kFloatVectors) < n + 16; block += kFloatVectors, next.step())
    score_seen<kFloatVectors>(s, block, keys());
  for (; 16 * block < n; ++block, next.step()) score_seen<1>(s, block, keys());
}

// n <= 64 values of the additive mask from position j on, padded with zeros.
inline void load_bias(const ArrayStrip& s, int r, int j, int n, float* to) {
  std::memset(to, 0, sizeof(float) * kTilePositions);
  const std::byte* from = s.mask(r, j);
  if (s.a.mask.col == sizeof(float)) {
    std::memcpy(to, from, sizeof(float) * n);
  } else {
    for (int i = 0; i < n; ++i) std::memcpy(to + i, from + i * s.a.mask.col, sizeof(float));
  }
}

// Cap, mask, and the copy for the weights; -inf in an additive mask wins over a NaN in the score.
inline void adjust_scores(const ArrayStrip& s, int r, int tile, int n) {
  float* p = s.p + r * kTilePositions;
  if (const float cap = s.a.softcap; cap > 0)
    for (int i = 0; i < kTilePositions; i += 16)
      store(p + i, set1(cap) * tanh(load(p + i) * set1(1.0f / cap)));
  if (s.a.mask_kind == MaskKind::kAdditive) {
    alignas(64) float bias[kTilePositions];
    load_bias(s, r, tile, n, bias);
    for (int i = 0; i < kTilePositions; i += 16)
      store(p + i, zero_below(load(p + i), load(bias + i), kLowestScore) + load(bias + i));
  }
  if (!s.a.weights) return;
  for (int i = 0; i < n; i += 16) {
    const F32 kept = keep_lanes(load(p + i), s.seen[r] >> i & 0xffff, set1(-__builtin_inff()));
    store_up_to_16<Format::F32>(reinterpret_cast<std::byte*>(s.weights(r) + tile + i), kept, n - i);
  }
}

// --- mix -----------------------------------------------------------------------------------------------
constexpr int64_t kValueBytes = 16 * sizeof(float), kPanelBytes = kPanelFloats * sizeof(float);

// Every position that a group of rows spans, with a weight of 0 where a row may not see it.
template <int vectors>
void mix_panels(const ArrayStrip& s, const float* values, int d) {
  const std::byte* panel = reinterpret_cast<const std::byte*>(values + d / 16 * kPanelFloats);
  for_row_groups(s.n_rows, [&](auto n, int r) LANNER_INLINE_LAMBDA {
    const uint64_t any = any_of<n>(s.seen + r);
    if (!any) return;
    const int first = __builtin_ctzll(any), end = 64 - __builtin_clzll(any);
    mix_rows<KvType::F32, n, vectors>(s.p + r * kTilePositions + first, panel + first * kValueBytes,
                                      kValueBytes, end - first, s.value_dim,
                                      s.chunk.out + r * s.value_dim + d, s.factors + r, kPanelBytes);
  });
}

inline void mix_span(const ArrayStrip& s, NextTile& next) {
  int d = 0;
  for (; d + 16 * kFloatVectors <= s.value_dim; d += 16 * kFloatVectors, next.step())
    mix_panels<kFloatVectors>(s, s.values, d);
  for (; d < s.value_dim; d += 16, next.step()) mix_panels<1>(s, s.values, d);
}

// The n positions of a tile that all rows see, from where V lies: few rows do not pay for a copy.
template <Format format>
void mix_in_place(const ArrayStrip& s, int tile, int n, NextTile& next) {
  for (int d = 0; d < s.value_dim; d += 16, next.step())
    for_row_groups(s.n_rows, [&](auto n_rows, int r) LANNER_INLINE_LAMBDA {
      mix_rows<kv_type(format), n_rows>(s.p + r * kTilePositions, s.value(tile) + d * info(format).bytes,
                                        s.a.v.row, n, s.value_dim, s.chunk.out + r * s.value_dim + d,
                                        s.factors + r);
    });
}

// Position by position, nothing but what each row sees: 0 * v is not 0.
inline void mix_seen(const ArrayStrip& s, const float* values, int tile) {
  for (int r = 0; r < s.n_rows; ++r) {
    const F32 alpha = set1(s.factors[r]);
    for (int d = 0; d < s.value_dim; d += 16) {
      float* out = s.chunk.out + r * s.value_dim + d;
      store(out, load(out) * alpha);
    }
    for (uint64_t rest = s.seen[r]; rest; rest &= rest - 1) {
      const int j = __builtin_ctzll(rest);
      float bias = 0;
      if (s.a.mask_kind == MaskKind::kAdditive) std::memcpy(&bias, s.mask(r, tile + j), sizeof bias);
      if (bias < kLowestScore) continue;
      const F32 p = set1(s.p[r * kTilePositions + j]);
      for (int d = 0; d < s.value_dim; d += 16) {
        float* out = s.chunk.out + r * s.value_dim + d;
        store(out, fma(p, load(values + d / 16 * kPanelFloats + 16 * j), load(out)));
      }
    }
  }
}

inline bool all_see(const ArrayStrip& s, uint64_t positions) {
  bool all = true;
  for (int r = 0; r < s.n_rows; ++r) all &= s.seen[r] == positions;
  return all;
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
