// AArch64 NEON with dot products (sdot): 16 lanes are four 128-bit registers, of which there are 32. The
// conversions of float16 belong to every AArch64.
#pragma once

#ifdef __ARM_NEON
#include <arm_neon.h>
#endif  // elsewhere tests/emulation/intrinsics.h stands in for it

namespace lanner::LANNER_ISA_NS {
namespace {

// Register q has lanes 4q to 4q + 3.
struct F32 {
  float32x4_t q0, q1, q2, q3;
};
struct I32 {
  int32x4_t q0, q1, q2, q3;
};
struct Codes {
  uint8x16_t q0, q1, q2, q3;
};  // 64 bytes: 16 rows, four values of K each
using Pairs = I32;  // sdot sums four products into int32: nothing can overflow inside a block

// {f(a.q0, b.q0, ...), f(a.q1, ...), f(a.q2, ...), f(a.q3, ...)}
template <class V, class F, class... Vectors>
inline __attribute__((always_inline)) V each(F f, Vectors... v) {
  return {f(v.q0...), f(v.q1...), f(v.q2...), f(v.q3...)};
}
inline int32x4_t lanes_0123() {
  static constexpr int32_t lanes[4] = {0, 1, 2, 3};
  return vld1q_s32(lanes);
}

// --- float32 -----------------------------------------------------------------------------------------
inline F32 set1(float x) {
  const float32x4_t q = vdupq_n_f32(x);
  return {q, q, q, q};
}
inline F32 zero() { return set1(0.0f); }
inline F32 load(const float* p) {
  return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}
inline void store(float* p, F32 a) {
  vst1q_f32(p, a.q0), vst1q_f32(p + 4, a.q1), vst1q_f32(p + 8, a.q2), vst1q_f32(p + 12, a.q3);
}
inline F32 operator+(F32 a, F32 b) {
  return each<F32>([](float32x4_t x, float32x4_t y) { return vaddq_f32(x, y); }, a, b);
}
inline F32 operator-(F32 a, F32 b) {
  return each<F32>([](float32x4_t x, float32x4_t y) { return vsubq_f32(x, y); }, a, b);
}
inline F32 operator*(F32 a, F32 b) {
  return each<F32>([](float32x4_t x, float32x4_t y) { return vmulq_f32(x, y); }, a, b);
}
inline F32 operator/(F32 a, F32 b) {
  return each<F32>([](float32x4_t x, float32x4_t y) { return vdivq_f32(x, y); }, a, b);
}
inline F32 fma(F32 a, F32 b, F32 c) {
  return each<F32>([](float32x4_t x, float32x4_t y, float32x4_t z) { return vfmaq_f32(z, x, y); }, a, b, c);
}
inline F32 fms(F32 a, F32 b, F32 c) {  // a * b - c
  return each<F32>([](float32x4_t x, float32x4_t y, float32x4_t z) { return vfmaq_f32(vnegq_f32(z), x, y); },
                   a, b, c);
}
// The second argument where one is NaN, and of zeros: fmax and fmin would give NaN and the greater zero.
inline float32x4_t max4(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
inline F32 max(F32 a, F32 b) { return each<F32>(max4, a, b); }
inline F32 min(F32 a, F32 b) {
  return each<F32>([](float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }, a, b);
}
inline F32 abs(F32 a) {
  return each<F32>([](float32x4_t x) { return vabsq_f32(x); }, a);
}

// Reductions pair lane i with i+8, i+4, i+2, i+1, in this order on every instruction set.
inline float hsum(F32 a) {
  const float32x4_t s4 = vaddq_f32(vaddq_f32(a.q0, a.q2), vaddq_f32(a.q1, a.q3));
  const float32x2_t s2 = vadd_f32(vget_low_f32(s4), vget_high_f32(s4));
  return vget_lane_f32(s2, 0) + vget_lane_f32(s2, 1);
}
inline float hmax(F32 a) {
  const float32x4_t m4 = max4(max4(a.q0, a.q2), max4(a.q1, a.q3));
  const float32x2_t low = vget_low_f32(m4), high = vget_high_f32(m4);
  const float32x2_t m2 = vbsl_f32(vcgt_f32(low, high), low, high);
  const float x = vget_lane_f32(m2, 0), y = vget_lane_f32(m2, 1);
  return x > y ? x : y;
}

// Largest magnitude of the 32 lanes of a and b, NaN above all: as integers, bits without a sign order so.
inline float largest_magnitude(F32 a, F32 b) {
  const I32 m = each<I32>(
      [](float32x4_t x, float32x4_t y) {
        return vmaxq_s32(vreinterpretq_s32_f32(vabsq_f32(x)), vreinterpretq_s32_f32(vabsq_f32(y)));
      },
      a, b);
  const int32_t bits = vmaxvq_s32(vmaxq_s32(vmaxq_s32(m.q0, m.q1), vmaxq_s32(m.q2, m.q3)));
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

// a where the bits of `chosen` are set, b elsewhere.
inline F32 select(I32 chosen, F32 a, F32 b) {
  return each<F32>(
      [](int32x4_t c, float32x4_t x, float32x4_t y) { return vbslq_f32(vreinterpretq_u32_s32(c), x, y); },
      chosen, a, b);
}
inline I32 as_i32(F32 a) {
  return each<I32>([](float32x4_t x) { return vreinterpretq_s32_f32(x); }, a);
}
// f(4q + lane) for 16 lanes
template <class F>
inline __attribute__((always_inline)) I32 of_lanes(F f) {
  const int32x4_t lanes = lanes_0123(), four = vdupq_n_s32(4), q1 = vaddq_s32(lanes, four);
  const int32x4_t q2 = vaddq_s32(q1, four), q3 = vaddq_s32(q2, four);
  return {f(lanes), f(q1), f(q2), f(q3)};
}

// Lanes 0 to n-1 of a, the others from b.
inline F32 keep_first(F32 a, int n, F32 b) {
  const int32x4_t end = vdupq_n_s32(n);
  return select(of_lanes([=](int32x4_t lane) { return vreinterpretq_s32_u32(vcgtq_s32(end, lane)); }), a, b);
}

// Lanes of a whose bit is set (lane 0: bit 0), the others from b.
inline F32 keep_lanes(F32 a, uint32_t bits, F32 b) {
  const int32x4_t all = vdupq_n_s32(static_cast<int32_t>(bits)), one = vdupq_n_s32(1);
  return select(
      of_lanes([=](int32x4_t lane) { return vreinterpretq_s32_u32(vtstq_s32(all, vshlq_s32(one, lane))); }),
      a, b);
}

// v, or 0 in lanes where x < limit; a NaN in x keeps v.
inline F32 zero_below(F32 v, F32 x, float limit) {
  const float32x4_t bound = vdupq_n_f32(limit);
  return each<F32>(
      [=](float32x4_t value, float32x4_t y) {
        return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(value), vcltq_f32(y, bound)));
      },
      v, x);
}

// To the nearest integer, as a float; a * 2^n for such an n. NaN stays NaN; elsewhere both are normal
// numbers.
inline F32 round_f32(F32 a) {
  return each<F32>([](float32x4_t x) { return vrndnq_f32(x); }, a);
}
inline F32 times_pow2(F32 a, F32 n) {
  return each<F32>(
      [](float32x4_t x, float32x4_t m) {
        return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x), vshlq_n_s32(vcvtnq_s32_f32(m), 23)));
      },
      a, n);
}

// Whether a lane is above limit; NaN is.
inline bool any_above(F32 x, float limit) {
  const float32x4_t bound = vdupq_n_f32(limit);
  const uint32x4_t lo = vandq_u32(vcleq_f32(x.q0, bound), vcleq_f32(x.q1, bound));
  const uint32x4_t hi = vandq_u32(vcleq_f32(x.q2, bound), vcleq_f32(x.q3, bound));
  return vminvq_u32(vandq_u32(lo, hi)) == 0;
}

// Writes the lanes of a whose bit is set one behind the other; what follows them, up to 16 in all, is lost.
inline void compress(float* to, F32 a, uint32_t bits) {
  float lanes[16];
  store(lanes, a);
  for (int n = 0; bits; bits &= bits - 1) to[n++] = lanes[__builtin_ctz(bits)];
}

// A store past the caches is no more than a hint here: an ordinary one.
inline void store_past_caches(float* p, F32 a) { store(p, a); }
inline void finish_stores() {}

// to[16 i + j] = element i of row j, of 16 rows of float32 that are `stride` bytes apart.
inline void transpose16(const std::byte* from, int64_t stride, float* to) {
  auto join = [](float32x4_t low, float32x4_t high, auto zip) {
    return vreinterpretq_f32_f64(zip(vreinterpretq_f64_f32(low), vreinterpretq_f64_f32(high)));
  };
  auto evens = [](float64x2_t x, float64x2_t y) { return vtrn1q_f64(x, y); };
  auto odds = [](float64x2_t x, float64x2_t y) { return vtrn2q_f64(x, y); };
  for (int row = 0; row < 16; row += 4)
    for (int column = 0; column < 16; column += 4) {
      auto part = [&](int r) {
        return vld1q_f32(reinterpret_cast<const float*>(from + (row + r) * stride) + column);
      };
      const float32x4_t a = part(0), b = part(1), c = part(2), d = part(3);
      const float32x4_t ab_02 = vtrn1q_f32(a, b), ab_13 = vtrn2q_f32(a, b);
      const float32x4_t cd_02 = vtrn1q_f32(c, d), cd_13 = vtrn2q_f32(c, d);
      float* out = to + 16 * column + row;
      vst1q_f32(out, join(ab_02, cd_02, evens)), vst1q_f32(out + 16, join(ab_13, cd_13, evens));
      vst1q_f32(out + 32, join(ab_02, cd_02, odds)), vst1q_f32(out + 48, join(ab_13, cd_13, odds));
    }
}

// --- 16-bit floats -----------------------------------------------------------------------------------
inline float32x4_t load4_f16(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
inline F32 load_f16(const void* p) {
  const uint16_t* q = static_cast<const uint16_t*>(p);
  return {load4_f16(q), load4_f16(q + 4), load4_f16(q + 8), load4_f16(q + 12)};
}
inline uint16x4_t narrow4_f16(float32x4_t x) { return vreinterpret_u16_f16(vcvt_f16_f32(x)); }
inline void store_f16(void* p, F32 a) {
  uint16_t* q = static_cast<uint16_t*>(p);
  vst1_u16(q, narrow4_f16(a.q0)), vst1_u16(q + 4, narrow4_f16(a.q1));
  vst1_u16(q + 8, narrow4_f16(a.q2)), vst1_u16(q + 12, narrow4_f16(a.q3));
}
inline F32 load_bf16(const void* p) {
  const uint16_t* q = static_cast<const uint16_t*>(p);
  auto four = [](const uint16_t* at) {
    return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16(at)), 16));
  };
  return {four(q), four(q + 4), four(q + 8), four(q + 12)};
}

inline float load_f16_1(const void* p) {
  uint16_t half;
  std::memcpy(&half, p, 2);
  return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half))), 0);
}
inline uint16_t to_f16(float x) { return vget_lane_u16(narrow4_f16(vdupq_n_f32(x)), 0); }

// --- int32 -------------------------------------------------------------------------------------------
inline I32 set1_i32(int32_t x) {
  const int32x4_t q = vdupq_n_s32(x);
  return {q, q, q, q};
}
inline I32 zero_i32() { return set1_i32(0); }
// NaN and what does not fit become INT32_MIN: the conversions themselves would give 0 and the nearest int32.
inline int32x4_t where_it_fits(int32x4_t converted, float32x4_t x) {
  return vbslq_s32(vcaltq_f32(x, vdupq_n_f32(0x1p31f)), converted, vdupq_n_s32(INT32_MIN));
}
inline I32 round_i32(F32 a) {
  return each<I32>([](float32x4_t x) { return where_it_fits(vcvtnq_s32_f32(x), x); }, a);
}
// Towards zero.
inline I32 truncate_i32(F32 a) {
  return each<I32>([](float32x4_t x) { return where_it_fits(vcvtq_s32_f32(x), x); }, a);
}
// The same bits.
inline F32 as_f32(I32 a) {
  return each<F32>([](int32x4_t x) { return vreinterpretq_f32_s32(x); }, a);
}
inline F32 to_f32(I32 a) {
  return each<F32>([](int32x4_t x) { return vcvtq_f32_s32(x); }, a);
}
inline I32 operator+(I32 a, I32 b) {
  return each<I32>([](int32x4_t x, int32x4_t y) { return vaddq_s32(x, y); }, a, b);
}
inline I32 operator&(I32 a, int32_t mask) {
  const int32x4_t m = vdupq_n_s32(mask);
  return each<I32>([=](int32x4_t x) { return vandq_s32(x, m); }, a);
}
inline I32 operator|(I32 a, I32 b) {
  return each<I32>([](int32x4_t x, int32x4_t y) { return vorrq_s32(x, y); }, a, b);
}
inline I32 operator<<(I32 a, int n) {
  const int32x4_t by = vdupq_n_s32(n);
  return each<I32>([=](int32x4_t x) { return vshlq_s32(x, by); }, a);
}
inline I32 operator>>(I32 a, int n) { return a << -n; }  // sshl shifts right by what is negative
inline I32 load_u8(const void* p) {
  const uint8x16_t v = vld1q_u8(static_cast<const uint8_t*>(p));
  const uint16x8_t lo = vmovl_u8(vget_low_u8(v)), hi = vmovl_u8(vget_high_u8(v));
  auto four = [](uint16x4_t x) { return vreinterpretq_s32_u32(vmovl_u16(x)); };
  return {four(vget_low_u16(lo)), four(vget_high_u16(lo)), four(vget_low_u16(hi)), four(vget_high_u16(hi))};
}
inline I32 load_i8(const void* p) {
  const int8x16_t v = vld1q_s8(static_cast<const int8_t*>(p));
  const int16x8_t lo = vmovl_s8(vget_low_s8(v)), hi = vmovl_s8(vget_high_s8(v));
  return {vmovl_s16(vget_low_s16(lo)), vmovl_s16(vget_high_s16(lo)), vmovl_s16(vget_low_s16(hi)),
          vmovl_s16(vget_high_s16(hi))};
}
inline void store_u8(void* p, I32 a) {  // saturates
  const uint16x8_t lo = vcombine_u16(vqmovun_s32(a.q0), vqmovun_s32(a.q1));
  const uint16x8_t hi = vcombine_u16(vqmovun_s32(a.q2), vqmovun_s32(a.q3));
  vst1q_u8(static_cast<uint8_t*>(p), vcombine_u8(vqmovn_u16(lo), vqmovn_u16(hi)));
}
inline int16x8_t narrow8(int32x4_t lo, int32x4_t hi) { return vcombine_s16(vqmovn_s32(lo), vqmovn_s32(hi)); }
inline void store_i16(int16_t* p, I32 a) {  // saturates
  vst1q_s16(p, narrow8(a.q0, a.q1)), vst1q_s16(p + 8, narrow8(a.q2, a.q3));
}
inline void store_i8(int8_t* p, I32 a) {  // saturates
  vst1q_s8(p, vcombine_s8(vqmovn_s16(narrow8(a.q0, a.q1)), vqmovn_s16(narrow8(a.q2, a.q3))));
}
inline int32_t hsum(I32 a) { return vaddvq_s32(vaddq_s32(vaddq_s32(a.q0, a.q2), vaddq_s32(a.q1, a.q3))); }
// Bit i of the result is bit 0 of lane i.
inline uint32_t low_bits(I32 a) {
  const I32 places = of_lanes([](int32x4_t lane) { return vshlq_s32(vdupq_n_s32(1), lane); });
  const I32 kept = each<I32>(
      [](int32x4_t x, int32x4_t place) { return vmulq_s32(vandq_s32(x, vdupq_n_s32(1)), place); }, a, places);
  return static_cast<uint32_t>(hsum(kept));
}
// Bit i of the result: lane i is at least limit; NaN is not.
inline uint32_t at_least(F32 x, float limit) {
  const float32x4_t bound = vdupq_n_f32(limit);
  return low_bits(
      {vreinterpretq_s32_u32(vcgeq_f32(x.q0, bound)), vreinterpretq_s32_u32(vcgeq_f32(x.q1, bound)),
       vreinterpretq_s32_u32(vcgeq_f32(x.q2, bound)), vreinterpretq_s32_u32(vcgeq_f32(x.q3, bound))});
}
// Bit i of `bits` in lane i, 0 or 1.
inline I32 lane_bits(uint32_t bits) {
  const int32x4_t all = vdupq_n_s32(static_cast<int32_t>(bits)), one = vdupq_n_s32(1);
  return of_lanes([=](int32x4_t lane) { return vandq_s32(vshlq_s32(all, vnegq_s32(lane)), one); });
}
// table[i] of each lane, 0 <= i < 16.
inline I32 lookup(const int8_t* table, I32 i) {
  const int8x16_t t = vld1q_s8(table);
  return each<I32>(
      [=](int32x4_t x) {
        const int32x4_t low = vreinterpretq_s32_s8(vqtbl1q_s8(t, vreinterpretq_u8_s32(x)));
        return vshrq_n_s32(vshlq_n_s32(low, 24), 24);
      },
      i);
}
inline I32 clamp(I32 a, int32_t low, int32_t high) {
  const int32x4_t l = vdupq_n_s32(low), h = vdupq_n_s32(high);
  return each<I32>([=](int32x4_t x) { return vminq_s32(vmaxq_s32(x, l), h); }, a);
}
// The first lane of a that equals x, 16 if none does.
inline int first_equal(F32 a, float x) {
  const float32x4_t v = vdupq_n_f32(x);
  const I32 lanes = of_lanes([](int32x4_t lane) { return lane; });
  const I32 found = each<I32>(
      [=](float32x4_t y, int32x4_t lane) { return vbslq_s32(vceqq_f32(y, v), lane, vdupq_n_s32(16)); }, a,
      lanes);
  return vminvq_s32(vminq_s32(vminq_s32(found.q0, found.q1), vminq_s32(found.q2, found.q3)));
}
// a * 2^n by adding n to the exponent; a and the result are normal numbers.
inline F32 scale_by_pow2(F32 a, I32 n) { return as_f32(as_i32(a) + (n << 23)); }

}  // namespace
}  // namespace lanner::LANNER_ISA_NS

#include "simd/vec_neon_codes.h"
