// Blocks of the formats of 32 values from float32 (the rules stand in ops/dequantize.h).
#pragma once

#include "cpu/blocks.h"
#include "ops/dequantize.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// False where the f16 is infinite or NaN.
inline bool store_scale(std::byte* p, float x) {
  const uint16_t half = to_f16(x);
  std::memcpy(p, &half, 2);
  return (half & 0x7c00) != 0x7c00;
}

inline float lowest(F32 a, F32 b) { return -hmax(max(set1(-1.0f) * a, set1(-1.0f) * b)); }

// The first element of the largest magnitude, or NaN.
inline float largest_element(const float* x, F32 lo, F32 hi) {
  const float largest = largest_magnitude(lo, hi);
  const int at = first_equal(abs(lo), largest);
  if (at < 16) return x[at];
  const int after = first_equal(abs(hi), largest);
  return after < 16 ? x[16 + after] : largest;
}

inline float inverse_of(float d) { return d == 0.0f ? 0.0f : 1.0f / d; }

// Nibbles of values 0-15 below those of 16-31, and the fifth bits before them.
template <bool fifth>
inline void store_block_codes(std::byte* p, I32 lo, I32 hi) {
  if constexpr (fifth) {
    const uint32_t bits = low_bits(lo >> 4) | low_bits(hi >> 4) << 16;
    std::memcpy(p, &bits, 4);
    p += 4;
  }
  store_u8(p, (lo & 15) | (hi & 15) << 4);
}

// Symmetric: the code of zero is 8 or 16.
template <int bits>
inline bool encode_symmetric(const float* x, std::byte* out) {
  constexpr int offset = 1 << (bits - 1);
  const F32 lo = load(x), hi = load(x + 16);
  const float d = largest_element(x, lo, hi) / static_cast<float>(-offset);
  const F32 inverse = set1(inverse_of(d)), middle = set1(static_cast<float>(offset) + 0.5f);
  store_block_codes<bits == 5>(out + 2, clamp(truncate_i32(lo * inverse + middle), 0, 2 * offset - 1),
                               clamp(truncate_i32(hi * inverse + middle), 0, 2 * offset - 1));
  return store_scale(out, d);
}

template <int bits>
inline bool encode_affine(const float* x, std::byte* out) {
  constexpr int top = (1 << bits) - 1;
  const F32 lo = load(x), hi = load(x + 16);
  const float minimum = lowest(lo, hi), d = (hmax(max(lo, hi)) - minimum) / static_cast<float>(top);
  const F32 least = set1(minimum);
  const F32 inverse = set1(inverse_of(d)), half = set1(0.5f);
  store_block_codes<bits == 5>(out + 4, clamp(truncate_i32((lo - least) * inverse + half), 0, top),
                               clamp(truncate_i32((hi - least) * inverse + half), 0, top));
  // A comparison drops NaN; a sum keeps it.
  const bool finite = hsum((lo - lo) + (hi - hi)) == 0.0f;
  return store_scale(out, d) & store_scale(out + 2, minimum) & finite;
}

// To nearest, halves away from zero: what is left after the cut, doubled and cut, is the step up.
inline I32 round_away(F32 x) {
  const I32 whole = truncate_i32(x);
  const F32 left = x - to_f32(whole);
  return whole + truncate_i32(left + left);
}

inline bool encode_q8_0(const float* x, std::byte* out) {
  const F32 lo = load(x), hi = load(x + 16);
  const float d = largest_magnitude(lo, hi) / 127.0f;
  // Where 1 / d overflows, the f16 scale is 0 and so are the codes.
  const float inverted = inverse_of(d);
  const F32 inverse = set1(inverted > __FLT_MAX__ ? 0.0f : inverted);
  int8_t* codes = reinterpret_cast<int8_t*>(out) + 2;
  store_i8(codes, round_away(lo * inverse)), store_i8(codes + 16, round_away(hi * inverse));
  return store_scale(out, d);
}

template <Format format>
inline bool encode_block(const float* x, std::byte* out) {
  if constexpr (format == Format::Q4_0) return encode_symmetric<4>(x, out);
  if constexpr (format == Format::Q5_0) return encode_symmetric<5>(x, out);
  if constexpr (format == Format::Q4_1) return encode_affine<4>(x, out);
  if constexpr (format == Format::Q5_1) return encode_affine<5>(x, out);
  if constexpr (format == Format::Q8_0) return encode_q8_0(x, out);
}

template <Format format>
inline bool encode_blocks(const float* x, int64_t n, std::byte* out) {
  bool ok = true;
  constexpr FormatInfo f = info(format);
  for (; n > 0; n -= f.block, x += f.block, out += f.bytes) ok &= encode_block<format>(x, out);
  return ok;
}

inline void narrow_to_f16(const float* x, int64_t n, std::byte* out) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store_f16(out + 2 * i, load(x + i));
  for (; i < n; ++i) {
    const uint16_t half = to_f16(x[i]);
    std::memcpy(out + 2 * i, &half, 2);
  }
}

// To nearest, ties to even; a NaN keeps its sign and upper bits and becomes quiet.
inline void narrow_to_bf16(const float* x, int64_t n, std::byte* out) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, 4);
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    const uint32_t rounded = bits + 0x7fffu + (bits >> 16 & 1u);
    const uint16_t half = static_cast<uint16_t>((nan ? bits | 0x400000u : rounded) >> 16);
    std::memcpy(out + 2 * i, &half, 2);
  }
}

bool quantize(Format format, const float* x, int64_t n, std::byte* out) {
  switch (format) {
    case Format::F32:
      std::memcpy(out, x, 4 * static_cast<size_t>(n));
      return true;
    case Format::F16:
      narrow_to_f16(x, n, out);
      return true;
    case Format::BF16:
      narrow_to_bf16(x, n, out);
      return true;
    case Format::Q4_0:
      return encode_blocks<Format::Q4_0>(x, n, out);
    case Format::Q4_1:
      return encode_blocks<Format::Q4_1>(x, n, out);
    case Format::Q5_0:
      return encode_blocks<Format::Q5_0>(x, n, out);
    case Format::Q5_1:
      return encode_blocks<Format::Q5_1>(x, n, out);
    case Format::Q8_0:
      return encode_blocks<Format::Q8_0>(x, n, out);
    default:
      return false;
  }
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
