// Where a micro-kernel takes its 16 rows of weights from: a packed panel, unpacked in registers, or a copy of
// a part of it that was unpacked to L1. Both give the same numbers, so both give the same sums.
#pragma once

#include <utility>

#include "cpu/blocks.h"
#include "ops/linear.h"
#include "simd/vec.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// Micro-kernels keep their tile in registers only if every step of them is inlined.
#define LANNER_INLINE inline __attribute__((always_inline))
#define LANNER_INLINE_LAMBDA __attribute__((always_inline))

// f(integral_constant<int, 0>), f(1), ... f(n - 1), unrolled.
template <int n, class F>
LANNER_INLINE void unroll(F f) {
  [&]<int... i>(std::integer_sequence<int, i...>) LANNER_INLINE_LAMBDA {
    (f(std::integral_constant<int, i>{}), ...);
  }(std::make_integer_sequence<int, n>{});
}

// Streams run this far ahead of the loads: the latency of loaded memory, 100 to 150 ns, is 1.5 to 2 KB of
// the 14 GB/s that one core reads, and the hardware's prefetcher, which follows the loads, stops at the next
// page of 4 KB. Whole bytes run with the hardware's, and gain nothing beyond half of that.
constexpr int kPrefetchBytes = 2048, kWidePrefetchBytes = 1024;

// The three forms of an input, as pointers to its row 0. A row of codes is followed by its scales and, for
// int8, by scale * sum of each block (ops/quantize_rows.h).
struct Input {
  const float* x;
  const uint8_t* int8;
  const uint8_t* int16;
  int64_t k;

  Input(const LinearInput& in, const Worker& worker, int32_t n)
      : x(in.x ? in.x.row(worker, 0) : nullptr),
        int8(in.int8 ? in.int8.row(worker, 0) : nullptr),
        int16(in.int16 ? in.int16.row(worker, 0) : nullptr),
        k(n) {}
  explicit Input(const float* rows) : x(rows), int8(nullptr), int16(nullptr), k(0) {}

  // From row r on.
  Input from(int64_t r) const {
    Input in = *this;
    if (x) in.x += r * k;
    if (int8) in.int8 += r * int8_row_bytes(k);
    if (int16) in.int16 += r * int16_row_bytes(k);
    return in;
  }
  int64_t row_bytes() const {
    return (x ? k * int64_t{sizeof(float)} : 0) + (int8 ? int8_row_bytes(k) : 0) +
           (int16 ? int16_row_bytes(k) : 0);
  }
};

// Of k values of K of a panel.
template <Format format>
constexpr size_t panel_bytes(int k) {
  return static_cast<size_t>(k) / record_of(format).k * record_of(format).n_bytes;
}

LANNER_INLINE float float_at(const uint8_t* p) {
  float value;
  std::memcpy(&value, p, 4);
  return value;
}

// A number of which the compiler knows nothing.
template <class T>
LANNER_INLINE T opaque(T x) {
  asm("" : "+r"(x));
  return x;
}

// The rows of a tile at one block of K. A row is found from the one before: a compiler that saw through it
// would keep a pointer to the codes, the scales and the sums of every row and add to each in every step.
template <int n>
LANNER_INLINE void rows_from(const uint8_t* first, int64_t stride, const uint8_t* (&rows)[n]) {
  rows[0] = first;
  for (int i = 1; i < n; ++i) rows[i] = opaque(rows[i - 1] + stride);
}

// --- float32, float16, bfloat16 ----------------------------------------------------------------------
template <Format format>
LANNER_INLINE F32 load_weights(const std::byte* p) {
  if constexpr (format == Format::F16)
    return load_f16(p);
  else if constexpr (format == Format::BF16)
    return load_bf16(p);
  else
    return load(reinterpret_cast<const float*>(p));
}

// Rows of the input are `stride` floats apart, or in.k where that is 0.
template <Format format, int stride = 0>
struct FloatSource {
  static constexpr int kTile = kFloatTile;
  static constexpr int kBytes = record_of(format).n_bytes;
  const std::byte* rows;  // record of k0
  int k0, k1;
  bool streams = false;  // comes from memory: panels follow each other

  template <int n>
  LANNER_INLINE void dot(const Input& in, int t, F32 (&acc)[n]) const {
    const int64_t apart = stride ? stride : in.k;
    const float* x = in.x + t * apart + k0;
    const std::byte* w = rows;
#pragma GCC unroll 4  // otherwise every eighth instruction would step k and the pointers
    for (int k = k0; k < k1; ++k, ++x, w += kBytes) {
      if (streams) prefetch(w + kWidePrefetchBytes);
      const F32 weights = load_weights<format>(w);
      for (int i = 0; i < n; ++i) acc[i] = fma(weights, set1(x[i * apart]), acc[i]);
    }
  }
};

// --- unsigned codes of at most 5 bits against int8 -----------------------------------------------------
// Groups of four values of K are taken in the order 0, 4, 1, 5, 2, 6, 3, 7: a plane's low, then high nibbles.
constexpr int group_at(int position) { return position / 2 + 4 * (position % 2); }

// Values of MXFP4 codes above their least.
alignas(16) constexpr int8_t kMxfp4Codes[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

// 2^(e - 128) of sixteen E8M0 scales, e <= 252.
LANNER_INLINE F32 load_e8m0_half(const std::byte* p) {
  return max(as_f32(load_u8(p) << 23) * set1(0.5f), set1(0x1p-128f));
}

template <Format format>
struct PackedBlock {
  static constexpr Record kRecord = record_of(format);
  static constexpr int kBytes = is_super(format) ? kRecord.sub_bytes : kRecord.n_bytes;
  const std::byte* p;       // the record, or the sub-block
  const std::byte* record;  // of which it is a part

  LANNER_INLINE static PackedBlock at(const std::byte* panel, int b) {
    if constexpr (!is_super(format)) return {panel + static_cast<size_t>(b) * kBytes, nullptr};
    const std::byte* record = panel + static_cast<size_t>(b / 8) * kRecord.n_bytes;
    return {record + kRecord.sub_at + b % 8 * kBytes, record};
  }
  template <int position>
  LANNER_INLINE Codes codes() const {
    constexpr int g = group_at(position);
    const Codes plane = load_codes(p + 64 * (g % 4));
    const Codes low = g < 4 ? low_nibbles(plane) : high_nibbles(plane);
    if constexpr (has_fifth(format))
      return with_bits<g, 4, 1>(low, load_codes(p + kRecord.fifth_at));
    else if constexpr (format == Format::MXFP4)
      return lookup(kMxfp4Codes, low);
    else
      return low;
  }
  LANNER_INLINE F32 scales() const {
    if constexpr (is_super(format))
      return load_f16(record) * to_f32(load_u8(p + kRecord.scales_at));
    else if constexpr (format == Format::MXFP4)
      return load_e8m0_half(p + kRecord.scales_at);
    else
      return load_f16(p + kRecord.scales_at);
  }
  LANNER_INLINE F32 minima() const {
    if constexpr (is_super(format))
      return load_f16(record + 32) * to_f32(load_u8(p + kRecord.minima_at));
    else if constexpr (minimum_at(format) >= 0)
      return load_f16(p + kRecord.minima_at);
    else
      return scales() * set1(static_cast<float>(-code_offset(format)));
  }
  LANNER_INLINE void prefetch_ahead() const {
    for (int at = 0; at < kBytes; at += 64) prefetch(p + kPrefetchBytes + at);
  }
};

// 8 x 64 bytes of codes in the order of their use, then scales and minima as float32.
struct UnpackedBlock {
  static constexpr int kBytes = 640;
  const std::byte* p;

  LANNER_INLINE static UnpackedBlock at(const std::byte* blocks, int b) { return {blocks + b * kBytes}; }
  template <int position>
  LANNER_INLINE Codes codes() const {
    return load_unpacked(p + 64 * position);
  }
  LANNER_INLINE F32 scales() const { return load(reinterpret_cast<const float*>(p + 512)); }
  LANNER_INLINE F32 minima() const { return load(reinterpret_cast<const float*>(p + 576)); }
  LANNER_INLINE void prefetch_ahead() const {}
};

template <class Block, int kBits>
struct CodeSource {
  static constexpr int kTile = kQuantTile;
  const std::byte* blocks;  // block of k0
  int k0, k1;
  bool streams = false;  // comes from memory: panels follow each other

  template <int n>
  LANNER_INLINE void dot(const Input& in, int t, F32 (&acc)[n]) const {
    const int64_t stride = int8_row_bytes(in.k);
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
      const F32 scales = block.scales(), minima = block.minima();
      const int64_t to_sum = to_scale + in.k / kBlock * 4;
      for (int i = 0; i < n; ++i) {
        acc[i] = fma(to_f32(dots[i]), scales * set1(float_at(rows[i] + to_scale)), acc[i]);
        acc[i] = fma(minima, set1(float_at(rows[i] + to_sum)), acc[i]);
      }
      x = opaque(x + kBlock), to_scale = opaque(to_scale + 4 - kBlock);
    }
  }

  // Integer sums of 16 rows with n tokens over a block: exact, so their order is free.
  template <int n>
  LANNER_INLINE static void block_dots(const Block& block, const uint8_t* const (&rows)[n], I32 (&dots)[n]) {
    constexpr int depth = kBits == 4 ? 8 : 4;  // products that an int16 lane can hold (simd/vec_avx2.h)
    Pairs sums[n];
    unroll<8>([&](auto position) LANNER_INLINE_LAMBDA {
      constexpr int p = position, at = 4 * group_at(p);
      const Codes w = block.template codes<p>();
      for (int i = 0; i < n; ++i) {
        if constexpr (p % depth == 0)
          sums[i] = dot_start(w, reinterpret_cast<const int8_t*>(rows[i] + at));
        else
          dot_add(sums[i], w, reinterpret_cast<const int8_t*>(rows[i] + at));
        if constexpr (p == depth - 1)
          dots[i] = dot_finish(sums[i]);
        else if constexpr (p % depth == depth - 1)
          dots[i] = dots[i] + dot_finish(sums[i]);
      }
    });
  }
};

template <Format format>
struct CodeFormat {
  static constexpr int kBits = has_fifth(format) || format == Format::MXFP4 ? 5 : 4;
  using Direct = CodeSource<PackedBlock<format>, kBits>;
  using Unpacked = CodeSource<UnpackedBlock, kBits>;
  // 32 blocks of 640 bytes, two thirds of L1: over so many, the two ends of a tile cost little.
  static constexpr int kTileK = 1024;

  static Unpacked unpack(const std::byte* panel, int k0, int k1, std::byte* scratch) {
    for (int b = k0 / kBlock; b < k1 / kBlock; ++b) {
      const auto from = PackedBlock<format>::at(panel, b);
      std::byte* to = scratch + (b - k0 / kBlock) * UnpackedBlock::kBytes;
      unroll<8>([&](auto position) LANNER_INLINE_LAMBDA {
        store_codes(to + 64 * position, from.template codes<position>());
      });
      store(reinterpret_cast<float*>(to + 512), from.scales());
      store(reinterpret_cast<float*>(to + 576), from.minima());
    }
    return {scratch, k0, k1};
  }
};

// --- int8 values against int16 -------------------------------------------------------------------------
template <Format format>
struct PackedWide {
  static constexpr Record kRecord = record_of(format);
  static constexpr int kBytes = is_super(format) ? kRecord.sub_bytes : kRecord.n_bytes;
  const std::byte* p;
  const std::byte* record;

  LANNER_INLINE static PackedWide at(const std::byte* panel, int b) {
    if constexpr (!is_super(format)) return {panel + static_cast<size_t>(b) * kBytes, nullptr};
    const std::byte* record = panel + static_cast<size_t>(b / 8) * kRecord.n_bytes;
    return {record + kRecord.sub_at + b % 8 * kBytes, record};
  }
  template <int j>
  LANNER_INLINE WidePairs pairs() const {
    if constexpr (format == Format::Q8_0)
      return load_i8_pairs(p + 32 * j);
    else
      return lookup_nibble_pairs<j / 8 * 4>(kIq4Values, p + 32 * (j % 8));
  }
  LANNER_INLINE F32 scales() const {
    if constexpr (is_super(format))
      return load_f16(record) * to_f32(load_i8(p + kRecord.scales_at));
    else
      return load_f16(p + kRecord.scales_at);
  }
  LANNER_INLINE void prefetch_ahead() const {
    for (int at = 0; at < kBytes; at += 64) prefetch(p + kWidePrefetchBytes + at);
  }
};

struct UnpackedWide {
  static constexpr int kBytes = 1088;
  const std::byte* p;
  LANNER_INLINE static UnpackedWide at(const std::byte* blocks, int b) { return {blocks + b * kBytes}; }
  template <int j>
  LANNER_INLINE WidePairs pairs() const {
    return load_i16_pairs(p + 64 * j);
  }
  LANNER_INLINE F32 scales() const { return load(reinterpret_cast<const float*>(p + 1024)); }
  LANNER_INLINE void prefetch_ahead() const {}
};

template <class Block>
struct WideSource {
  static constexpr int kTile = kQuantTile;
  const std::byte* blocks;
  int k0, k1;
  bool streams = false;  // comes from memory: panels follow each other

  template <int n>
  LANNER_INLINE void dot(const Input& in, int t, F32 (&acc)[n]) const {
    const int64_t stride = int16_row_bytes(in.k);
    const uint8_t* x = in.int16 + t * stride + 2 * k0;
    int64_t to_scale = 2 * (in.k - k0) + k0 / kBlock * 4;  // from the codes of a block
    const int n_blocks = (k1 - k0) / kBlock;
    for (int b = 0; b < n_blocks; ++b) {
      const uint8_t* rows[n];
      rows_from(x, stride, rows);
      const Block block = Block::at(blocks, b);
      if (streams) block.prefetch_ahead();
      I32 dots[n];
      for (int i = 0; i < n; ++i) dots[i] = zero_i32();
      unroll<kBlock / 2>([&](auto j) LANNER_INLINE_LAMBDA {
        const WidePairs w = block.template pairs<j>();
        for (int i = 0; i < n; ++i)
          dots[i] = dot2_add(dots[i], w, reinterpret_cast<const int16_t*>(rows[i] + 4 * j));
      });
      const F32 scales = block.scales();
      for (int i = 0; i < n; ++i)
        acc[i] = fma(to_f32(dots[i]), scales * set1(float_at(rows[i] + to_scale)), acc[i]);
      x = opaque(x + 2 * kBlock), to_scale = opaque(to_scale + 4 - 2 * kBlock);
    }
  }
};

template <Format format>
struct WideFormat {
  using Direct = WideSource<PackedWide<format>>;
  using Unpacked = WideSource<UnpackedWide>;
  static constexpr int kTileK = 256;  // 8 blocks of 1088 bytes

  static Unpacked unpack(const std::byte* panel, int k0, int k1, std::byte* scratch) {
    for (int b = k0 / kBlock; b < k1 / kBlock; ++b) {
      const auto from = PackedWide<format>::at(panel, b);
      std::byte* to = scratch + (b - k0 / kBlock) * UnpackedWide::kBytes;
      unroll<kBlock / 2>(
          [&](auto j) LANNER_INLINE_LAMBDA { store_i16_pairs(to + 64 * j, from.template pairs<j>()); });
      store(reinterpret_cast<float*>(to + 1024), from.scales());
    }
    return {scratch, k0, k1};
  }
};

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
