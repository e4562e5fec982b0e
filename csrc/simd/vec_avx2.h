// AVX2 + FMA + F16C: 16 lanes are two 256-bit registers.
#pragma once

#include <immintrin.h>

namespace lanner::LANNER_ISA_NS {
namespace {

struct F32 {
  __m256 lo, hi;
};
struct I32 {
  __m256i lo, hi;
};
struct Codes {
  __m256i lo, hi;
};  // 64 bytes: rows 0-7 and rows 8-15, four values of K each
struct Pairs {
  __m256i lo, hi;
};  // int16 sums of two products; two per row

// --- float32 -----------------------------------------------------------------------------------------
inline F32 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F32 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F32 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F32 a) { _mm256_storeu_ps(p, a.lo), _mm256_storeu_ps(p + 8, a.hi); }
inline F32 operator+(F32 a, F32 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline F32 operator-(F32 a, F32 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline F32 operator*(F32 a, F32 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline F32 operator/(F32 a, F32 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline F32 fma(F32 a, F32 b, F32 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline F32 max(F32 a, F32 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline F32 min(F32 a, F32 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline F32 abs(F32 a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}

// Reductions pair lane i with i+8, i+4, i+2, i+1, in this order on every instruction set.
inline float hsum(F32 a) {
  __m256 s8 = _mm256_add_ps(a.lo, a.hi);
  __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
inline float hmax(F32 a) {
  __m256 s8 = _mm256_max_ps(a.lo, a.hi);
  __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_max_ss(s2, _mm_movehdup_ps(s2)));
}

// Largest magnitude of the 32 lanes of a and b, NaN above all: as integers, bits without a sign order so.
inline float largest_magnitude(F32 a, F32 b) {
  const F32 x = abs(a), y = abs(b);
  const __m256i m8 = _mm256_max_epi32(_mm256_max_epi32(_mm256_castps_si256(x.lo), _mm256_castps_si256(x.hi)),
                                      _mm256_max_epi32(_mm256_castps_si256(y.lo), _mm256_castps_si256(y.hi)));
  const __m128i m4 = _mm_max_epi32(_mm256_castsi256_si128(m8), _mm256_extracti128_si256(m8, 1));
  const __m128i m2 = _mm_max_epi32(m4, _mm_shuffle_epi32(m4, 0x4e));
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epi32(m2, _mm_shuffle_epi32(m2, 0xb1))));
}

// Lanes 0 to n-1 of a, the others from b.
inline F32 keep_first(F32 a, int n, F32 b) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i lo = _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane);
  const __m256i hi = _mm256_cmpgt_epi32(_mm256_set1_epi32(n - 8), lane);
  return {_mm256_blendv_ps(b.lo, a.lo, _mm256_castsi256_ps(lo)),
          _mm256_blendv_ps(b.hi, a.hi, _mm256_castsi256_ps(hi))};
}

// v, or 0 in lanes where x < limit; a NaN in x keeps v.
inline F32 zero_below(F32 v, F32 x, float limit) {
  const __m256 bound = _mm256_set1_ps(limit);
  return {_mm256_and_ps(v.lo, _mm256_cmp_ps(x.lo, bound, _CMP_NLT_UQ)),
          _mm256_and_ps(v.hi, _mm256_cmp_ps(x.hi, bound, _CMP_NLT_UQ))};
}

// --- 16-bit floats -----------------------------------------------------------------------------------
inline F32 load_f16(const void* p) {
  const __m128i* q = static_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
}
inline void store_f16(void* p, F32 a) {
  __m128i* q = static_cast<__m128i*>(p);
  _mm_storeu_si128(q, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(q + 1, _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
}
inline F32 load_bf16(const void* p) {
  const __m128i* q = static_cast<const __m128i*>(p);
  const __m256i lo = _mm256_cvtepu16_epi32(_mm_loadu_si128(q));
  const __m256i hi = _mm256_cvtepu16_epi32(_mm_loadu_si128(q + 1));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
}

// --- int32 -------------------------------------------------------------------------------------------
inline I32 zero_i32() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline I32 round_i32(F32 a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
inline F32 to_f32(I32 a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
inline I32 operator+(I32 a, I32 b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
inline int32_t hsum(I32 a) {
  const __m256i s8 = _mm256_add_epi32(a.lo, a.hi);
  const __m128i s4 = _mm_add_epi32(_mm256_castsi256_si128(s8), _mm256_extracti128_si256(s8, 1));
  const __m128i s2 = _mm_add_epi32(s4, _mm_shuffle_epi32(s4, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s2, _mm_shuffle_epi32(s2, 0xb1)));
}
// a * 2^n by adding n to the exponent; a and the result are normal numbers.
inline F32 scale_by_pow2(F32 a, I32 n) {
  return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.lo), _mm256_slli_epi32(n.lo, 23))),
          _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.hi), _mm256_slli_epi32(n.hi, 23)))};
}
inline void store_i8(int8_t* p, I32 a) {  // saturates
  const __m256i s16 = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0xd8);
  const __m128i s8 = _mm_packs_epi16(_mm256_castsi256_si128(s16), _mm256_extracti128_si256(s16, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), s8);
}
inline void store_i16(int16_t* p, I32 a) {  // saturates
  const __m256i s16 = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0xd8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), s16);
}

// --- packed codes ------------------------------------------------------------------------------------
inline Codes load_codes(const void* p) {
  const __m256i* q = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
inline void store_codes(void* p, Codes c) {
  __m256i* q = static_cast<__m256i*>(p);
  _mm256_storeu_si256(q, c.lo), _mm256_storeu_si256(q + 1, c.hi);
}
inline Codes low_nibbles(Codes c) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(c.lo, mask), _mm256_and_si256(c.hi, mask)};
}
inline Codes high_nibbles(Codes c) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(_mm256_srli_epi16(c.lo, 4), mask),
          _mm256_and_si256(_mm256_srli_epi16(c.hi, 4), mask)};
}
// codes | 16 * bit g of plane: the fifth bit of group g.
template <int g>
inline Codes with_fifth_bit(Codes codes, Codes plane) {
  const __m256i bit = _mm256_set1_epi8(16);
  auto moved = [](__m256i x) {
    if constexpr (g < 4)
      return _mm256_slli_epi16(x, 4 - g);
    else
      return _mm256_srli_epi16(x, g - 4);
  };
  return {_mm256_or_si256(codes.lo, _mm256_and_si256(moved(plane.lo), bit)),
          _mm256_or_si256(codes.hi, _mm256_and_si256(moved(plane.hi), bit))};
}

// --- integer dot products ----------------------------------------------------------------------------
// u4 and u5 codes times int8: a pair of products is at most 2*31*127 = 7874, so four groups fit in int16,
// and eight groups of 4-bit codes (8 * 2*15*127 = 30480) do.
inline Pairs dot_start(Codes w, const int8_t* x4) {
  int32_t bits;
  std::memcpy(&bits, x4, 4);
  const __m256i x = _mm256_set1_epi32(bits);
  return {_mm256_maddubs_epi16(w.lo, x), _mm256_maddubs_epi16(w.hi, x)};
}
inline void dot_add(Pairs& sum, Codes w, const int8_t* x4) {
  const Pairs p = dot_start(w, x4);
  sum = {_mm256_add_epi16(sum.lo, p.lo), _mm256_add_epi16(sum.hi, p.hi)};
}
inline I32 dot_finish(Pairs sum) {
  const __m256i ones = _mm256_set1_epi16(1);
  return {_mm256_madd_epi16(sum.lo, ones), _mm256_madd_epi16(sum.hi, ones)};
}
// sum += w * x for 16 rows x 2 int8 weights and one pair of int16 activations.
struct WidePairs {
  __m256i lo, hi;
};  // 16 rows x 2 int16
inline WidePairs load_i8_pairs(const void* p) {
  const __m128i* q = static_cast<const __m128i*>(p);
  return {_mm256_cvtepi8_epi16(_mm_loadu_si128(q)), _mm256_cvtepi8_epi16(_mm_loadu_si128(q + 1))};
}
inline WidePairs load_i16_pairs(const void* p) {
  const __m256i* q = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
inline void store_i16_pairs(void* p, WidePairs w) {
  __m256i* q = static_cast<__m256i*>(p);
  _mm256_storeu_si256(q, w.lo), _mm256_storeu_si256(q + 1, w.hi);
}
inline I32 dot2_add(I32 sum, WidePairs w, const int16_t* x2) {
  int32_t bits;
  std::memcpy(&bits, x2, 4);
  const __m256i x = _mm256_set1_epi32(bits);
  return {_mm256_add_epi32(sum.lo, _mm256_madd_epi16(w.lo, x)),
          _mm256_add_epi32(sum.hi, _mm256_madd_epi16(w.hi, x))};
}

inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

// Tokens of the widest micro-kernels: 6 x 16 floats are 12 of the 16 registers; a 4 x 16 integer tile
// keeps its 8 int16 accumulators, two weight vectors and a broadcast.
inline constexpr int kFloatTile = 6;
inline constexpr int kQuantTile = 4;

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
