// The blocks of every quantized format as files store them: sixteen codes at a time, and their scales.
#pragma once

#include "ops/packed.h"
#include "simd/vec.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// The values of IQ4 codes, fitted to the distribution of weights by the authors of the format.
alignas(16) constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                               1,    13,   25,  38,  53,  69,  89,  113};
// Twice the values of E2M1 (OCP Microscaling Formats, section 5.3.3), so that they are integers.
alignas(16) constexpr int8_t kMxfp4Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// Values i to i + 15 of a K-quant lie in 16 neighbouring bytes, `bits` wide at `shift`, a run of 32 values to
// a shift; the planes of the formats differ in how many runs share a byte.
template <int bits>
inline I32 bits_at(const std::byte* p, int shift) {
  return load_u8(p) >> shift & ((1 << bits) - 1);
}

// Codes 16 * i to 16 * i + 15 of a block, less the offset where the format has one; from the codebook where
// it has that.
template <Format format>
inline I32 codes_16(const std::byte* block, int i) {
  using enum Format;
  const int half = i % 2, run = i / 2;  // the half of a run of 32
  if constexpr (format == Q4_0) return bits_at<4>(block + 2, 4 * i) + set1_i32(-8);
  if constexpr (format == Q4_1) return bits_at<4>(block + 4, 4 * i);
  if constexpr (format == Q5_0 || format == Q5_1) {
    constexpr int at = format == Q5_0 ? 2 : 4;
    uint32_t fifth;
    std::memcpy(&fifth, block + at, 4);
    const I32 code = bits_at<4>(block + at + 4, 4 * i) | lane_bits(fifth >> 16 * i) << 4;
    return format == Q5_0 ? code + set1_i32(-16) : code;
  }
  if constexpr (format == Q8_0) return load_i8(block + 2 + 16 * i);
  if constexpr (format == Q2_K) return bits_at<2>(block + 16 + 32 * (run / 4) + 16 * half, 2 * (run % 4));
  if constexpr (format == Q3_K) {
    const I32 low = bits_at<2>(block + 32 + 32 * (run / 4) + 16 * half, 2 * (run % 4));
    return (low | bits_at<1>(block + 16 * half, run) << 2) + set1_i32(-4);
  }
  if constexpr (format == Q4_K) return bits_at<4>(block + 16 + 32 * (run / 2) + 16 * half, 4 * (run % 2));
  if constexpr (format == Q5_K) {
    const I32 low = bits_at<4>(block + 48 + 32 * (run / 2) + 16 * half, 4 * (run % 2));
    return low | bits_at<1>(block + 16 + 16 * half, run) << 4;
  }
  if constexpr (format == Q6_K) {
    const I32 low = bits_at<4>(block + 64 * (i / 8) + 16 * (i % 4), 4 * (i / 4 % 2));
    const I32 high = bits_at<2>(block + 128 + 32 * (i / 8) + 16 * half, 2 * (run % 4));
    return (low | high << 4) + set1_i32(-32);
  }
  if constexpr (format == IQ4_NL) return lookup(kIq4Values, bits_at<4>(block + 2, 4 * i));
  if constexpr (format == IQ4_XS) return lookup(kIq4Values, bits_at<4>(block + 8 + 16 * run, 4 * half));
  if constexpr (format == MXFP4) return lookup(kMxfp4Values, bits_at<4>(block + 1, 4 * i));
}

// What the unsigned codes of a format lie above: w = scale * (code - offset).
constexpr int code_offset(Format f) {
  using enum Format;
  return f == Q4_0 ? 8 : f == Q5_0 ? 16 : f == Q3_K ? 4 : f == Q6_K ? 32 : f == MXFP4 ? 12 : 0;
}

// Byte offsets of the f16 scale and of the f16 minimum (or scale of minima) of a block; -1 for none.
constexpr int scale_at(Format f) {
  using enum Format;
  return f == Q2_K ? 80 : f == Q3_K ? 108 : f == Q6_K ? 208 : f == MXFP4 ? -1 : 0;
}
constexpr int minimum_at(Format f) {
  using enum Format;
  return f == Q4_1 || f == Q5_1 || f == Q4_K || f == Q5_K ? 2 : f == Q2_K ? 82 : -1;
}

// 2^(e - 128): half of the E8M0 scale, for the doubled values. Exact, below 2^-126 as a subnormal.
inline float e8m0_half(const std::byte* p) {
  const uint32_t e = static_cast<uint32_t>(*p), bits = e < 2 ? 0x00200000u << e : (e - 1) << 23;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

template <Format format>
inline float block_scale(const std::byte* block) {
  if constexpr (format == Format::MXFP4)
    return e8m0_half(block);
  else
    return load_f16_1(block + scale_at(format));
}
template <Format format>
inline float block_minimum(const std::byte* block) {
  return minimum_at(format) < 0 ? 0.0f : load_f16_1(block + minimum_at(format));
}

// Integer scales and minima of a super-block of 256, a pair for each 16 values (Q2_K, Q3_K, Q6_K: kScales =
// 16) or 32 values (the others: 8).
struct SubScales {
  int8_t scales[16];
  uint8_t minima[16];
};

constexpr int n_scales(Format f) {
  using enum Format;
  return f == Q2_K || f == Q3_K || f == Q6_K ? 16 : 8;
}

template <Format format>
inline SubScales sub_scales(const std::byte* block) {
  using enum Format;
  SubScales out{};
  const auto at = [block](int i) { return static_cast<unsigned>(block[i]); };
  for (int i = 0; i < n_scales(format); ++i) {
    unsigned scale = 0, minimum = 0;
    if constexpr (format == Q2_K) {
      scale = at(i) & 15, minimum = at(i) >> 4;
    } else if constexpr (format ==
                         Q3_K) {  // 12 bytes: eight of two low nibbles, four of four pairs of high bits
      scale = ((at(96 + i % 8) >> 4 * (i / 8) & 15) | (at(104 + i % 4) >> 2 * (i / 4) & 3) << 4) - 32;
    } else if constexpr (format == Q6_K) {
      scale = at(192 + i);
    } else if constexpr (format == IQ4_XS) {
      scale = ((at(4 + i / 2) >> 4 * (i % 2) & 15) | (at(2 + i / 4) >> 2 * (i % 4) & 3) << 4) - 32;
    } else if (i < 4) {  // Q4_K, Q5_K: 12 bytes of eight 6-bit scales and eight 6-bit minima
      scale = at(4 + i) & 63, minimum = at(8 + i) & 63;
    } else {
      scale = (at(8 + i) & 15) | at(i) >> 6 << 4, minimum = at(8 + i) >> 4 | at(4 + i) >> 6 << 4;
    }
    out.scales[i] = static_cast<int8_t>(scale);
    out.minima[i] = static_cast<uint8_t>(minimum);
  }
  return out;
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
