// AVX-512 and NEON for a machine that has AVX2 and nothing above it: SIMDe's portable intrinsics under their
// own names, and here what it lacks or rounds otherwise than the instructions do. Included before every line
// of an emulated set (LANNER_EMULATED_ISAS in CMakeLists.txt).
//
// An AVX-512 intrinsic that is emulated nowhere would be the compiler's own, which does not compile without
// -mavx512f; one of NEON would not exist.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include "simde/arm/neon.h"
#include "simde/x86/avx512.h"

namespace lanner_emulation {
namespace {

// --- AVX-512 -----------------------------------------------------------------------------------------
inline __m256 half(__m512 a, int i) { return simde__m512_to_private(a).m256[i]; }
inline __m256i half(__m512i a, int i) { return simde__m512i_to_private(a).m256i[i]; }
inline __m512 whole(__m256 lo, __m256 hi) {
  simde__m512_private out;
  out.m256[0] = lo, out.m256[1] = hi;
  return simde__m512_from_private(out);
}
inline __m512i whole(__m256i lo, __m256i hi) {
  simde__m512i_private out;
  out.m256i[0] = lo, out.m256i[1] = hi;
  return simde__m512i_from_private(out);
}

// The sign bit cleared. SIMDe compares with zero, and leaves -0 and NaN as they are.
inline __m512 abs_ps(__m512 a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return whole(_mm256_andnot_ps(sign, half(a, 0)), _mm256_andnot_ps(sign, half(a, 1)));
}

// SIMDe converts by a cast, whose result is undefined for NaN and what does not fit.
inline __m512i cvttps_epi32(__m512 a) {
  return whole(_mm256_cvttps_epi32(half(a, 0)), _mm256_cvttps_epi32(half(a, 1)));
}

// a * 2^floor(b). SIMDe takes a polynomial of b and flushes subnormal numbers.
inline float scalef(float a, float b) {
  if (a != a || b != b) return a + b;
  const float n = __builtin_floorf(b);
  if (__builtin_isinf(n)) return a * (n > 0 ? n : 0.0f);
  return __builtin_scalbnf(a, n < -1000 ? -1000 : n > 1000 ? 1000 : static_cast<int>(n));
}
inline __m512 scalef_ps(__m512 a, __m512 b) {
  simde__m512_private x = simde__m512_to_private(a), y = simde__m512_to_private(b);
  for (int i = 0; i < 16; ++i) x.f32[i] = scalef(x.f32[i], y.f32[i]);
  return simde__m512_from_private(x);
}

inline __m512i cvtepi8_epi32(__m128i a) {
  return whole(_mm256_cvtepi8_epi32(a), _mm256_cvtepi8_epi32(_mm_srli_si128(a, 8)));
}
inline __m512i cvtepu8_epi32(__m128i a) {
  return whole(_mm256_cvtepu8_epi32(a), _mm256_cvtepu8_epi32(_mm_srli_si128(a, 8)));
}
inline __m128i cvtusepi32_epi8(__m512i a) {
  simde__m512i_private x = simde__m512i_to_private(a);
  simde__m128i_private out;
  for (int i = 0; i < 16; ++i) out.u8[i] = static_cast<uint8_t>(x.u32[i] > 255 ? 255 : x.u32[i]);
  return simde__m128i_from_private(out);
}
inline __mmask16 cmplt_epi32_mask(__m512i a, __m512i b) { return simde_mm512_cmpgt_epi32_mask(b, a); }
inline int reduce_add_epi32(__m512i a) {
  const simde__m512i_private x = simde__m512i_to_private(a);
  uint32_t sum = 0;
  for (int i = 0; i < 16; ++i) sum += x.u32[i];
  return static_cast<int>(sum);
}
inline void stream_ps(void* p, __m512 a) {
  _mm256_stream_ps(static_cast<float*>(p), half(a, 0));
  _mm256_stream_ps(static_cast<float*>(p) + 8, half(a, 1));
}

#undef _mm512_abs_ps
#undef _mm512_cvttps_epi32
#undef _mm512_scalef_ps
#define _mm512_abs_ps(a) lanner_emulation::abs_ps(a)
#define _mm512_cvttps_epi32(a) lanner_emulation::cvttps_epi32(a)
#define _mm512_scalef_ps(a, b) lanner_emulation::scalef_ps(a, b)
#define _mm512_cvtepi8_epi32(a) lanner_emulation::cvtepi8_epi32(a)
#define _mm512_cvtepu8_epi32(a) lanner_emulation::cvtepu8_epi32(a)
#define _mm512_cvtusepi32_epi8(a) lanner_emulation::cvtusepi32_epi8(a)
#define _mm512_cmplt_epi32_mask(a, b) lanner_emulation::cmplt_epi32_mask(a, b)
#define _mm512_reduce_add_epi32(a) lanner_emulation::reduce_add_epi32(a)
#define _mm512_stream_ps(p, a) lanner_emulation::stream_ps(p, a)
#define _mm512_cvtps_ph(a, rounding)                                        \
  _mm256_set_m128i(_mm256_cvtps_ph(lanner_emulation::half(a, 1), rounding), \
                   _mm256_cvtps_ph(lanner_emulation::half(a, 0), rounding))

// --- NEON --------------------------------------------------------------------------------------------
// To nearest, ties to even; NaN becomes 0 and what does not fit the nearest int32. SIMDe gives INT32_MIN.
inline int32x4_t cvtn_s32(float32x4_t a) {
  const __m128 x = simde_float32x4_to_private(a).m128;
  const __m128i above = _mm_castps_si128(_mm_cmpge_ps(x, _mm_set1_ps(0x1p31f)));
  const __m128i number = _mm_castps_si128(_mm_cmpord_ps(x, x));
  simde_int32x4_private out;
  out.m128i = _mm_and_si128(_mm_xor_si128(_mm_cvtps_epi32(x), above), number);  // ~INT32_MIN is INT32_MAX
  return simde_int32x4_from_private(out);
}

// SIMDe drops the payload of a NaN.
inline float16x4_t f16_of_f32(float32x4_t a) {
  simde_uint16x4_private out;
  _mm_storel_epi64(reinterpret_cast<__m128i*>(&out),
                   _mm_cvtps_ph(simde_float32x4_to_private(a).m128, _MM_FROUND_TO_NEAREST_INT));
  return simde_vreinterpret_f16_u16(simde_uint16x4_from_private(out));
}
inline float32x4_t f32_of_f16(float16x4_t a) {
  const simde_uint16x4_private halves = simde_uint16x4_to_private(simde_vreinterpret_u16_f16(a));
  simde_float32x4_private out;
  out.m128 = _mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(&halves)));
  return simde_float32x4_from_private(out);
}

#undef vcvtnq_s32_f32
#undef vcvt_f16_f32
#undef vcvt_f32_f16
#define vcvtnq_s32_f32(a) lanner_emulation::cvtn_s32(a)
#define vcvt_f16_f32(a) lanner_emulation::f16_of_f32(a)
#define vcvt_f32_f16(a) lanner_emulation::f32_of_f16(a)

}  // namespace
}  // namespace lanner_emulation
