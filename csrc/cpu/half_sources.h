// Weights with a scale per 16 values (q2_k, q3_k, q6_k): the integer sums of the two halves of a block of 32
// are multiplied by their integer scales before they become float32 (the sums stand in ops/linear.h).
#pragma once

#include "cpu/sources.h"

namespace lanner::LANNER_ISA_NS {
namespace {

template <Format format>
struct PackedHalves {
  static constexpr Record kRecord = record_of(format);
  const std::byte* p;       // the sub-block
  const std::byte* record;  // its record

  LANNER_INLINE static PackedHalves at(const std::byte* panel, int b) {
    const std::byte* record = panel + static_cast<size_t>(b / 8) * kRecord.n_bytes;
    return {record + kRecord.sub_at + b % 8 * kRecord.sub_bytes, record};
  }
  template <int g>
  LANNER_INLINE Codes codes() const {
    constexpr int above = has_nibbles(format) ? 4 : 0;
    Codes out = zero_codes();
    if constexpr (has_nibbles(format)) {
      const Codes plane = load_codes(p + 64 * (g % 4));
      out = g < 4 ? low_nibbles(plane) : high_nibbles(plane);
    }
    out = with_bits<2 * (g % 4), above, 3>(out, load_codes(p + kRecord.pairs_at + 64 * (g / 4)));
    if constexpr (has_fifth(format)) out = with_bits<g, 2, 1>(out, load_codes(p + kRecord.fifth_at));
    return out;
  }
  LANNER_INLINE WidePairs factors() const {
    if constexpr (format == Format::Q2_K)
      return load_nibble_pairs<0>(p + kRecord.scales_at);
    else
      return load_i8_pairs(p + kRecord.scales_at);
  }
  LANNER_INLINE WidePairs corrections() const {
    if constexpr (format == Format::Q2_K)
      return load_nibble_pairs<4>(p + kRecord.scales_at);
    else
      return factors() * static_cast<int16_t>(-code_offset(format));
  }
  LANNER_INLINE F32 scales() const { return load_f16(record); }
  LANNER_INLINE F32 minima() const { return load_f16(record + 32); }  // q2_k only
  LANNER_INLINE void prefetch_ahead() const {
    for (int at = 0; at < kRecord.sub_bytes; at += 64) prefetch(p + kPrefetchBytes + at);
  }
};

// 8 x 64 bytes of codes in the order of k, int16 pairs of factors and of corrections, float32 scales and
// minima.
struct UnpackedHalves {
  static constexpr int kBytes = 768;
  const std::byte* p;
  LANNER_INLINE static UnpackedHalves at(const std::byte* blocks, int b) { return {blocks + b * kBytes}; }
  template <int g>
  LANNER_INLINE Codes codes() const {
    return load_unpacked(p + 64 * g);
  }
  LANNER_INLINE WidePairs factors() const { return load_i16_pairs(p + 512); }
  LANNER_INLINE WidePairs corrections() const { return load_i16_pairs(p + 576); }
  LANNER_INLINE F32 scales() const { return load(reinterpret_cast<const float*>(p + 640)); }
  LANNER_INLINE F32 minima() const { return load(reinterpret_cast<const float*>(p + 704)); }
  LANNER_INLINE void prefetch_ahead() const {}
};

// `depth` groups of codes fit in the lanes of Pairs; with minima, the corrections are a sum of their own.
template <class Block, int depth, bool has_minima>
struct HalfSource {
  static constexpr int kTile = kQuantTile;
  const std::byte* blocks;
  int k0, k1;
  bool streams = false;  // comes from memory: panels follow each other

  template <int n>
  LANNER_INLINE void dot(const Input& in, int t, F32 (&acc)[n]) const {
    const int64_t stride = int8_row_bytes(in.k), to_sums = in.k / kBlock * 8;
    const uint8_t* x = in.int8 + t * stride + k0;
    int64_t to_scale = in.k - k0 + k0 / kBlock * 4;  // from the codes of a block
    const int n_blocks = (k1 - k0) / kBlock;
    for (int b = 0; b < n_blocks; ++b) {
      const uint8_t* rows[n];
      rows_from(x, stride, rows);
      const Block block = Block::at(blocks, b);
      if (streams) block.prefetch_ahead();
      I32 dots[n];
      block_dots<n>(block, rows, dots);
      const WidePairs corrections = block.corrections();
      const F32 scales = block.scales();
      for (int i = 0; i < n; ++i) {
        const F32 scale = set1(float_at(rows[i] + to_scale));
        const auto* sums = reinterpret_cast<const int16_t*>(rows[i] + to_scale + to_sums);
        if constexpr (!has_minima) dots[i] = dot2_add(dots[i], corrections, sums);
        acc[i] = fma(to_f32(dots[i]), scales * scale, acc[i]);
        if constexpr (has_minima)
          acc[i] = fma(to_f32(dot2_add(zero_i32(), corrections, sums)), block.minima() * scale, acc[i]);
      }
      x = opaque(x + kBlock), to_scale = opaque(to_scale + 4 - kBlock);
    }
  }

  // The sums of both halves times their factors.
  template <int n>
  LANNER_INLINE static void block_dots(const Block& block, const uint8_t* const (&rows)[n], I32 (&dots)[n]) {
    const WidePairs factors = block.factors();
    const RowFactors half[2] = {factors_of<0>(factors), factors_of<1>(factors)};
    if constexpr (depth == 2) return pair_dots<n>(block, rows, half, dots);
    Pairs sums[n];
    unroll<8>([&](auto group) LANNER_INLINE_LAMBDA {
      constexpr int g = group;
      const Codes w = block.template codes<g>();
      for (int i = 0; i < n; ++i) {
        if constexpr (g % depth == 0)
          sums[i] = dot_start(w, reinterpret_cast<const int8_t*>(rows[i] + 4 * g));
        else
          dot_add(sums[i], w, reinterpret_cast<const int8_t*>(rows[i] + 4 * g));
        if constexpr (g == depth - 1)
          dots[i] = dot_finish(sums[i], half[0]);
        else if constexpr (g % depth == depth - 1)
          dot_add(dots[i], sums[i], half[g / 4]);
      }
    });
  }

  // The same with sums of two groups: each ends before the next token's begins, and waits in no register.
  template <int n>
  LANNER_INLINE static void pair_dots(const Block& block, const uint8_t* const (&rows)[n],
                                      const RowFactors (&half)[2], I32 (&dots)[n]) {
    unroll<4>([&](auto pair) LANNER_INLINE_LAMBDA {
      constexpr int g = 2 * pair;
      const Codes first = block.template codes<g>(), second = block.template codes<g + 1>();
      for (int i = 0; i < n; ++i) {
        const auto* codes = reinterpret_cast<const int8_t*>(rows[i] + 4 * g);
        Pairs sum = dot_start(first, codes);
        dot_add(sum, second, codes + 4);
        if constexpr (g == 0)
          dots[i] = dot_finish(sum, half[0]);
        else
          dot_add(dots[i], sum, half[g / 4]);
      }
    });
  }
};

template <Format format>
struct HalfFormat {
  static constexpr int kDepth = format == Format::Q6_K ? kDepthU6 : 4;
  static constexpr bool kMinima = format == Format::Q2_K;
  using Direct = HalfSource<PackedHalves<format>, kDepth, kMinima>;
  using Unpacked = HalfSource<UnpackedHalves, kDepth, kMinima>;
  static constexpr int kTileK = 512;  // 16 blocks of 768 bytes, and a multiple of 256

  static Unpacked unpack(const std::byte* panel, int k0, int k1, std::byte* scratch) {
    for (int b = k0 / kBlock; b < k1 / kBlock; ++b) {
      const auto from = PackedHalves<format>::at(panel, b);
      std::byte* to = scratch + (b - k0 / kBlock) * UnpackedHalves::kBytes;
      unroll<8>([&](auto g) LANNER_INLINE_LAMBDA { store_codes(to + 64 * g, from.template codes<g>()); });
      store_i16_pairs(to + 512, from.factors());
      store_i16_pairs(to + 576, from.corrections());
      store(reinterpret_cast<float*>(to + 640), from.scales());
      if constexpr (kMinima) store(reinterpret_cast<float*>(to + 704), from.minima());
    }
    return {scratch, k0, k1};
  }
};

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
