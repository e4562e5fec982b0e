// AVX-512 (F, BW, DQ, VL) with VNNI: 16 lanes are one register, and there are 32 of them.
#pragma once

#include <immintrin.h>

namespace lanner::LANNER_ISA_NS {
namespace {

struct F32 {
  __m512 v;
};
struct I32 {
  __m512i v;
};
struct Codes {
  __m512i v;
};  // 64 bytes: 16 rows, four values of K each
using Pairs = I32;  // vpdpbusd sums four products into int32: nothing can overflow inside a block

// --- float32 -----------------------------------------------------------------------------------------
inline F32 zero() { return {_mm512_setzero_ps()}; }
inline F32 set1(float x) { return {_mm512_set1_ps(x)}; }
inline F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F32 a) { _mm512_storeu_ps(p, a.v); }
inline F32 operator+(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32 operator-(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32 operator*(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32 operator/(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32 min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F32 abs(F32 a) { return {_mm512_abs_ps(a.v)}; }

// Reductions pair lane i with i+8, i+4, i+2, i+1, in this order on every instruction set.
inline float hsum(F32 a) {
  const __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
inline float hmax(F32 a) {
  const __m256 s8 = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_max_ss(s2, _mm_movehdup_ps(s2)));
}

// Largest magnitude of the 32 lanes of a and b, NaN above all: as integers, bits without a sign order so.
inline float largest_magnitude(F32 a, F32 b) {
  const __m512i m = _mm512_max_epi32(_mm512_castps_si512(abs(a).v), _mm512_castps_si512(abs(b).v));
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(_mm512_reduce_max_epi32(m))));
}

// Lanes 0 to n-1 of a, the others from b.
inline F32 keep_first(F32 a, int n, F32 b) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return {_mm512_mask_blend_ps(_mm512_cmplt_epi32_mask(lane, _mm512_set1_epi32(n)), b.v, a.v)};
}

// v, or 0 in lanes where x < limit; a NaN in x keeps v.
inline F32 zero_below(F32 v, F32 x, float limit) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, _mm512_set1_ps(limit), _CMP_NLT_UQ), v.v)};
}

// --- 16-bit floats -----------------------------------------------------------------------------------
inline __m256i load_256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store_256(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
inline F32 load_f16(const void* p) { return {_mm512_cvtph_ps(load_256(p))}; }
inline void store_f16(void* p, F32 a) { store_256(p, _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT)); }
inline F32 load_bf16(const void* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_256(p)), 16))};
}

// --- int32 -------------------------------------------------------------------------------------------
inline I32 zero_i32() { return {_mm512_setzero_si512()}; }
inline I32 round_i32(F32 a) { return {_mm512_cvtps_epi32(a.v)}; }
inline F32 to_f32(I32 a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline I32 operator+(I32 a, I32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline int32_t hsum(I32 a) { return _mm512_reduce_add_epi32(a.v); }
// a * 2^n by adding n to the exponent; a and the result are normal numbers.
inline F32 scale_by_pow2(F32 a, I32 n) {
  return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), _mm512_slli_epi32(n.v, 23)))};
}
inline void store_i8(int8_t* p, I32 a) {  // saturates
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(a.v));
}
inline void store_i16(int16_t* p, I32 a) { store_256(p, _mm512_cvtsepi32_epi16(a.v)); }  // saturates

// --- packed codes ------------------------------------------------------------------------------------
inline Codes load_codes(const void* p) { return {_mm512_loadu_si512(p)}; }
inline void store_codes(void* p, Codes c) { _mm512_storeu_si512(p, c.v); }
inline Codes low_nibbles(Codes c) { return {_mm512_and_si512(c.v, _mm512_set1_epi8(15))}; }
inline Codes high_nibbles(Codes c) {
  return {_mm512_and_si512(_mm512_srli_epi16(c.v, 4), _mm512_set1_epi8(15))};
}
// codes | 16 * bit g of plane: the fifth bit of group g.
template <int g>
inline Codes with_fifth_bit(Codes codes, Codes plane) {
  const __m512i moved =
      g < 4 ? _mm512_slli_epi16(plane.v, g < 4 ? 4 - g : 0) : _mm512_srli_epi16(plane.v, g < 4 ? 0 : g - 4);
  // 0xf8: a | (b & c)
  return {_mm512_ternarylogic_epi32(codes.v, moved, _mm512_set1_epi8(16), 0xf8)};
}

// --- integer dot products ----------------------------------------------------------------------------
inline __m512i broadcast_32(const void* p) {
  int32_t bits;
  std::memcpy(&bits, p, 4);
  return _mm512_set1_epi32(bits);
}
inline Pairs dot_start(Codes w, const int8_t* x4) {
  return {_mm512_dpbusd_epi32(_mm512_setzero_si512(), w.v, broadcast_32(x4))};
}
inline void dot_add(Pairs& sum, Codes w, const int8_t* x4) {
  sum.v = _mm512_dpbusd_epi32(sum.v, w.v, broadcast_32(x4));
}
inline I32 dot_finish(Pairs sum) { return sum; }
// sum += w * x for 16 rows x 2 int8 weights and one pair of int16 activations.
struct WidePairs {
  __m512i v;
};
inline WidePairs load_i8_pairs(const void* p) { return {_mm512_cvtepi8_epi16(load_256(p))}; }
inline WidePairs load_i16_pairs(const void* p) { return {_mm512_loadu_si512(p)}; }
inline void store_i16_pairs(void* p, WidePairs w) { _mm512_storeu_si512(p, w.v); }
inline I32 dot2_add(I32 sum, WidePairs w, const int16_t* x2) {
  return {_mm512_dpwssd_epi32(sum.v, w.v, broadcast_32(x2))};
}

inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

// Tokens of the widest micro-kernels: twelve chains hide a latency of 4 on two pipes and a load beside them;
// eight tokens keep their integer and their float sums, 16 of the 32 registers.
inline constexpr int kFloatTile = 12;
inline constexpr int kQuantTile = 8;

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
