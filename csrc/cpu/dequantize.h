// float32 values of the blocks of every format, each operation rounded as the format defines its values.
#pragma once

#include "cpu/blocks.h"
#include "ops/dequantize.h"

namespace lanner::LANNER_ISA_NS {
namespace {

inline F32 value_16(I32 codes, float scale, float minimum, bool has_minima) {
  const F32 scaled = set1(scale) * to_f32(codes);
  return has_minima ? scaled + set1(minimum) : scaled;
}

template <Format format>
inline void dequantize_block(const std::byte* block, float* out) {
  const float d = block_scale<format>(block), m = block_minimum<format>(block);
  constexpr bool has_minima = minimum_at(format) >= 0;
  if constexpr (is_super(format)) {
    const SubScales sub = sub_scales<format>(block);
    constexpr int per_scale = 16 / n_scales(format);
    for (int i = 0; i < 16; ++i) {
      // d * scale and m * minimum are exact: 11 bits by at most 8.
      const float scale = d * static_cast<float>(sub.scales[i / per_scale]);
      const float minimum = -(m * static_cast<float>(sub.minima[i / per_scale]));
      store(out + 16 * i, value_16(codes_16<format>(block, i), scale, minimum, has_minima));
    }
  } else {
    for (int i = 0; i < 2; ++i) store(out + 16 * i, value_16(codes_16<format>(block, i), d, m, has_minima));
  }
}

template <Format format>
inline void dequantize_blocks(const std::byte* data, int64_t n, float* out) {
  constexpr FormatInfo f = info(format);
  for (; n > 0; n -= f.block, data += f.bytes, out += f.block) dequantize_block<format>(data, out);
}

// Sixteen elements at a time, the last ones through a padded copy.
template <F32 (*load_half)(const void*)>
inline void widen_halves(const std::byte* data, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store(out + i, load_half(data + 2 * i));
  if (i == n) return;
  const size_t left = static_cast<size_t>(n - i);
  uint16_t halves[16] = {};
  float values[16];
  std::memcpy(halves, data + 2 * i, 2 * left);
  store(values, load_half(halves));
  std::memcpy(out + i, values, 4 * left);
}

void dequantize(Format format, const std::byte* data, int64_t n, float* out) {
  switch (format) {
    case Format::F32:
      std::memcpy(out, data, 4 * static_cast<size_t>(n));
      return;
    case Format::F16:
      return widen_halves<load_f16>(data, n, out);
    case Format::BF16:
      return widen_halves<load_bf16>(data, n, out);
#define LANNER_CASE(f) \
  case Format::f:      \
    return dequantize_blocks<Format::f>(data, n, out);
      LANNER_CASE(Q4_0)
      LANNER_CASE(Q4_1)
      LANNER_CASE(Q5_0)
      LANNER_CASE(Q5_1)
      LANNER_CASE(Q8_0)
      LANNER_CASE(Q2_K)
      LANNER_CASE(Q3_K)
      LANNER_CASE(Q4_K)
      LANNER_CASE(Q5_K)
      LANNER_CASE(Q6_K)
      LANNER_CASE(IQ4_NL)
      LANNER_CASE(IQ4_XS)
      LANNER_CASE(MXFP4)
#undef LANNER_CASE
  }
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
