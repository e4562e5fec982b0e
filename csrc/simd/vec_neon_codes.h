// NEON with dot products: packed codes and the integer products of vec_neon.h.
#pragma once

#include "simd/vec_neon.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// --- packed codes ------------------------------------------------------------------------------------
inline Codes load_codes(const void* p) {
  const uint8_t* q = static_cast<const uint8_t*>(p);
  return {vld1q_u8(q), vld1q_u8(q + 16), vld1q_u8(q + 32), vld1q_u8(q + 48)};
}
inline Codes load_unpacked(const void* p) { return load_codes(p); }
inline void store_codes(void* p, Codes c) {
  uint8_t* q = static_cast<uint8_t*>(p);
  vst1q_u8(q, c.q0), vst1q_u8(q + 16, c.q1), vst1q_u8(q + 32, c.q2), vst1q_u8(q + 48, c.q3);
}
inline Codes low_nibbles(Codes c) {
  return each<Codes>([](uint8x16_t x) { return vandq_u8(x, vdupq_n_u8(15)); }, c);
}
inline Codes high_nibbles(Codes c) {
  return each<Codes>([](uint8x16_t x) { return vshrq_n_u8(x, 4); }, c);
}
// codes | (plane >> from & mask) << to, byte by byte.
template <int from, int to, int mask>
inline Codes with_bits(Codes codes, Codes plane) {
  auto moved = [](uint8x16_t x) {
    if constexpr (from < to)
      return vshlq_n_u8(x, to - from);
    else if constexpr (from > to)
      return vshrq_n_u8(x, from - to);
    else
      return x;
  };
  return each<Codes>(
      [=](uint8x16_t c, uint8x16_t x) {
        return vorrq_u8(c, vandq_u8(moved(x), vdupq_n_u8(static_cast<uint8_t>(mask << to))));
      },
      codes, plane);
}
inline Codes zero_codes() {
  const uint8x16_t q = vdupq_n_u8(0);
  return {q, q, q, q};
}
// table[i] of each byte, 0 <= i < 16.
inline Codes lookup(const int8_t* table, Codes i) {
  const uint8x16_t t = vreinterpretq_u8_s8(vld1q_s8(table));
  return each<Codes>([=](uint8x16_t x) { return vqtbl1q_u8(t, x); }, i);
}

// --- integer dot products ----------------------------------------------------------------------------
// Codes are below 64: as signed bytes they are what they are as unsigned ones.
//
// The compiler likes to form all products before it adds any: they do not fit the registers. in_order() makes
// it finish a sum before the next begins.
inline void in_order([[maybe_unused]] I32& a) {
#ifdef __ARM_NEON
  asm("" : "+w"(a.q0), "+w"(a.q1), "+w"(a.q2), "+w"(a.q3));
#endif
}
inline int32x4_t broadcast_32(const void* p) {
  int32_t bits;
  std::memcpy(&bits, p, 4);
  return vdupq_n_s32(bits);
}
inline void dot_add(Pairs& sum, Codes w, const int8_t* x4) {
  const int8x16_t x = vreinterpretq_s8_s32(broadcast_32(x4));
  sum = each<I32>([=](int32x4_t s, uint8x16_t c) { return vdotq_s32(s, vreinterpretq_s8_u8(c), x); }, sum, w);
  in_order(sum);
}
inline Pairs dot_start(Codes w, const int8_t* x4) {
  Pairs sum = zero_i32();
  dot_add(sum, w, x4);
  return sum;
}
inline I32 dot_finish(Pairs sum) { return sum; }

// sum += w * x for 16 rows x 2 int8 weights and one pair of int16 activations.
struct WidePairs {
  int16x8_t q0, q1, q2, q3;
};  // 16 rows x 2 int16
inline WidePairs widen(int8x16_t lo, int8x16_t hi) {
  return {vmovl_s8(vget_low_s8(lo)), vmovl_s8(vget_high_s8(lo)), vmovl_s8(vget_low_s8(hi)),
          vmovl_s8(vget_high_s8(hi))};
}
inline WidePairs load_i8_pairs(const void* p) {
  const int8_t* q = static_cast<const int8_t*>(p);
  return widen(vld1q_s8(q), vld1q_s8(q + 16));
}
inline WidePairs load_i16_pairs(const void* p) {
  const int16_t* q = static_cast<const int16_t*>(p);
  return {vld1q_s16(q), vld1q_s16(q + 8), vld1q_s16(q + 16), vld1q_s16(q + 24)};
}
inline void store_i16_pairs(void* p, WidePairs w) {
  int16_t* q = static_cast<int16_t*>(p);
  vst1q_s16(q, w.q0), vst1q_s16(q + 8, w.q1), vst1q_s16(q + 16, w.q2), vst1q_s16(q + 24, w.q3);
}
inline I32 dot2_add(I32 sum, WidePairs w, const int16_t* x2) {
  const int16x4_t x = vget_low_s16(vreinterpretq_s16_s32(broadcast_32(x2)));
  sum = each<I32>(
      [=](int32x4_t s, int16x8_t v) {
        return vaddq_s32(s, vpaddq_s32(vmull_s16(vget_low_s16(v), x), vmull_s16(vget_high_s16(v), x)));
      },
      sum, w);
  in_order(sum);
  return sum;
}

// Low (shift 0) or high (shift 4) nibbles of 32 bytes as int16 pairs, as they are or through a table.
template <int shift>
inline uint8x16_t nibbles_16(const uint8_t* p) {
  const uint8x16_t v = vld1q_u8(p);
  if constexpr (shift == 0)
    return vandq_u8(v, vdupq_n_u8(15));
  else
    return vshrq_n_u8(v, 4);
}
template <int shift>
inline WidePairs load_nibble_pairs(const void* p) {
  const uint8_t* q = static_cast<const uint8_t*>(p);
  return widen(vreinterpretq_s8_u8(nibbles_16<shift>(q)), vreinterpretq_s8_u8(nibbles_16<shift>(q + 16)));
}
template <int shift>
inline WidePairs lookup_nibble_pairs(const int8_t* table, const void* p) {
  const uint8_t* q = static_cast<const uint8_t*>(p);
  const int8x16_t t = vld1q_s8(table);
  return widen(vqtbl1q_s8(t, nibbles_16<shift>(q)), vqtbl1q_s8(t, nibbles_16<shift>(q + 16)));
}
inline WidePairs operator*(WidePairs a, int16_t x) {
  return each<WidePairs>([=](int16x8_t v) { return vmulq_n_s16(v, x); }, a);
}

// An integer per row that multiplies the sums of a half of a block: value h of a pair.
using RowFactors = I32;
template <int h>
inline RowFactors factors_of(WidePairs a) {
  return each<I32>(
      [](int16x8_t v) {
        const int32x4_t pair = vreinterpretq_s32_s16(v);
        return vshrq_n_s32(h == 0 ? vshlq_n_s32(pair, 16) : pair, 16);
      },
      a);
}
inline void dot_add(I32& sum, Pairs pairs, RowFactors f) {
  sum = each<I32>([](int32x4_t s, int32x4_t x, int32x4_t y) { return vmlaq_s32(s, x, y); }, sum, pairs, f);
}
inline I32 dot_finish(Pairs sum, RowFactors f) {
  return each<I32>([](int32x4_t x, int32x4_t y) { return vmulq_s32(x, y); }, sum, f);
}
// Groups of u6 codes that an int32 lane sums, of the four of a half.
inline constexpr int kDepthU6 = 4;

// Tokens of the widest micro-kernels: 6 x 16 floats are 24 of the 32 registers, beside four of weights and a
// broadcast; of a 4 x 16 integer tile the int32 sums, 16 registers, stay, and the float sums wait in L1 while
// a block of 32 is summed.
inline constexpr int kFloatTile = 6;
inline constexpr int kQuantTile = 4;

// Whether an instruction makes float32 of 16-bit floats, so that a copy of them does not pay.
inline constexpr bool kConvertsInRegisters = true;

// Vectors of 16 columns that a tile of kFloatTile rows may have side by side. The tile fills the registers.
inline constexpr int kFloatVectors = 1;

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
