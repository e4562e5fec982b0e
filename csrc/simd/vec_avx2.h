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
inline F32 fms(F32 a, F32 b, F32 c) {  // a * b - c
  return {_mm256_fmsub_ps(a.lo, b.lo, c.lo), _mm256_fmsub_ps(a.hi, b.hi, c.hi)};
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

// Lanes of a whose bit is set (lane 0: bit 0), the others from b.
inline F32 keep_lanes(F32 a, uint32_t bits, F32 b) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i lo = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(bits), bit), bit);
  const __m256i hi = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(bits >> 8), bit), bit);
  return {_mm256_blendv_ps(b.lo, a.lo, _mm256_castsi256_ps(lo)),
          _mm256_blendv_ps(b.hi, a.hi, _mm256_castsi256_ps(hi))};
}

// v, or 0 in lanes where x < limit; a NaN in x keeps v.
inline F32 zero_below(F32 v, F32 x, float limit) {
  const __m256 bound = _mm256_set1_ps(limit);
  return {_mm256_and_ps(v.lo, _mm256_cmp_ps(x.lo, bound, _CMP_NLT_UQ)),
          _mm256_and_ps(v.hi, _mm256_cmp_ps(x.hi, bound, _CMP_NLT_UQ))};
}

// To the nearest integer, as a float; a * 2^n for such an n. NaN stays NaN; elsewhere both are normal
// numbers.
inline F32 round_f32(F32 a) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.lo, kNearest), _mm256_round_ps(a.hi, kNearest)};
}
inline F32 times_pow2(F32 a, F32 n) {
  const auto shifted = [](__m256 x) { return _mm256_slli_epi32(_mm256_cvtps_epi32(x), 23); };
  return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.lo), shifted(n.lo))),
          _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.hi), shifted(n.hi)))};
}

// Whether a lane is above limit; NaN is.
inline bool any_above(F32 x, float limit) {
  const __m256 bound = _mm256_set1_ps(limit);
  return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(x.lo, bound, _CMP_NLE_UQ),
                                         _mm256_cmp_ps(x.hi, bound, _CMP_NLE_UQ))) != 0;
}

// Bit i of the result: lane i is at least limit; NaN is not.
inline uint32_t at_least(F32 x, float limit) {
  const __m256 bound = _mm256_set1_ps(limit);
  const int lo = _mm256_movemask_ps(_mm256_cmp_ps(x.lo, bound, _CMP_GE_OQ));
  const int hi = _mm256_movemask_ps(_mm256_cmp_ps(x.hi, bound, _CMP_GE_OQ));
  return static_cast<uint32_t>(lo | hi << 8);
}

// Writes the lanes of a whose bit is set one behind the other; what follows them, up to 16 in all, is lost.
struct SetLanes {
  uint8_t lanes[256][8] = {};
  constexpr SetLanes() {
    for (int bits = 0; bits < 256; ++bits)
      for (int lane = 0, n = 0; lane < 8; ++lane)
        if (bits >> lane & 1) lanes[bits][n++] = static_cast<uint8_t>(lane);
  }
};
constexpr SetLanes kSetLanes;
inline void compress(float* to, F32 a, uint32_t bits) {
  const auto packed = [](__m256 half, uint32_t b) {
    const auto* lanes = reinterpret_cast<const __m128i*>(kSetLanes.lanes[b]);
    return _mm256_permutevar8x32_ps(half, _mm256_cvtepu8_epi32(_mm_loadl_epi64(lanes)));
  };
  _mm256_storeu_ps(to, packed(a.lo, bits & 255));
  _mm256_storeu_ps(to + __builtin_popcount(bits & 255), packed(a.hi, bits >> 8));
}

// A store that does not read its line first, to an address that is a multiple of 64; finish_stores() before
// another thread may look.
inline void store_past_caches(float* p, F32 a) { _mm256_stream_ps(p, a.lo), _mm256_stream_ps(p + 8, a.hi); }
inline void finish_stores() { _mm_sfence(); }

// to[16 i + j] = element i of row j, of 16 rows of float32 that are `stride` bytes apart.
inline void transpose16(const std::byte* from, int64_t stride, float* to) {
  // Rows r and r + 4 share a register, so that 4 x 4 blocks are transposed within its halves.
  auto pair = [&](int row, int column) {
    const float* p = reinterpret_cast<const float*>(from + row * stride) + column;
    const float* q = reinterpret_cast<const float*>(from + (row + 4) * stride) + column;
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(q), 1);
  };
  for (int row = 0; row < 16; row += 8)
    for (int column = 0; column < 16; column += 4) {
      const __m256 a = pair(row, column), b = pair(row + 1, column);
      const __m256 c = pair(row + 2, column), d = pair(row + 3, column);
      const __m256d ab_lo = _mm256_castps_pd(_mm256_unpacklo_ps(a, b));
      const __m256d ab_hi = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
      const __m256d cd_lo = _mm256_castps_pd(_mm256_unpacklo_ps(c, d));
      const __m256d cd_hi = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
      float* out = to + 16 * column + row;
      _mm256_storeu_ps(out, _mm256_castpd_ps(_mm256_unpacklo_pd(ab_lo, cd_lo)));
      _mm256_storeu_ps(out + 16, _mm256_castpd_ps(_mm256_unpackhi_pd(ab_lo, cd_lo)));
      _mm256_storeu_ps(out + 32, _mm256_castpd_ps(_mm256_unpacklo_pd(ab_hi, cd_hi)));
      _mm256_storeu_ps(out + 48, _mm256_castpd_ps(_mm256_unpackhi_pd(ab_hi, cd_hi)));
    }
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

inline float load_f16_1(const void* p) {
  uint16_t half;
  std::memcpy(&half, p, 2);
  return _cvtsh_ss(half);
}
inline uint16_t to_f16(float x) { return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }

// --- int32 -------------------------------------------------------------------------------------------
inline I32 zero_i32() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline I32 round_i32(F32 a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
// The same bits.
inline F32 as_f32(I32 a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }
inline F32 to_f32(I32 a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
inline I32 operator+(I32 a, I32 b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
inline I32 operator&(I32 a, int32_t mask) {
  const __m256i m = _mm256_set1_epi32(mask);
  return {_mm256_and_si256(a.lo, m), _mm256_and_si256(a.hi, m)};
}
inline I32 operator|(I32 a, I32 b) { return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }
inline I32 operator>>(I32 a, int n) { return {_mm256_srai_epi32(a.lo, n), _mm256_srai_epi32(a.hi, n)}; }
inline I32 operator<<(I32 a, int n) { return {_mm256_slli_epi32(a.lo, n), _mm256_slli_epi32(a.hi, n)}; }
inline I32 set1_i32(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline I32 load_u8(const void* p) {
  const __m128i v = _mm_loadu_si128(static_cast<const __m128i*>(p));
  return {_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8))};
}
inline I32 load_i8(const void* p) {  // two loads that widen as they go, instead of one and a shift
  const std::byte* q = static_cast<const std::byte*>(p);
  return {_mm256_cvtepi8_epi32(_mm_loadu_si64(q)), _mm256_cvtepi8_epi32(_mm_loadu_si64(q + 8))};
}
inline void store_u8(void* p, I32 a) {  // saturates
  const __m256i u16 = _mm256_permute4x64_epi64(_mm256_packus_epi32(a.lo, a.hi), 0xd8);
  const __m128i u8 = _mm_packus_epi16(_mm256_castsi256_si128(u16), _mm256_extracti128_si256(u16, 1));
  _mm_storeu_si128(static_cast<__m128i*>(p), u8);
}
// Bit i of the result is bit 0 of lane i.
inline uint32_t low_bits(I32 a) {
  const int lo = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_slli_epi32(a.lo, 31)));
  const int hi = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_slli_epi32(a.hi, 31)));
  return static_cast<uint32_t>(lo | hi << 8);
}
// Bit i of `bits` in lane i, 0 or 1.
inline I32 lane_bits(uint32_t bits) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), one = _mm256_set1_epi32(1);
  const __m256i lo = _mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(bits)), lane);
  const __m256i hi = _mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(bits >> 8)), lane);
  return {_mm256_and_si256(lo, one), _mm256_and_si256(hi, one)};
}
// table[i] of each lane, 0 <= i < 16.
inline I32 lookup(const int8_t* table, I32 i) {
  const __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  return {_mm256_srai_epi32(_mm256_slli_epi32(_mm256_shuffle_epi8(t, i.lo), 24), 24),
          _mm256_srai_epi32(_mm256_slli_epi32(_mm256_shuffle_epi8(t, i.hi), 24), 24)};
}
// Towards zero; NaN and what does not fit become INT32_MIN.
inline I32 truncate_i32(F32 a) { return {_mm256_cvttps_epi32(a.lo), _mm256_cvttps_epi32(a.hi)}; }
inline I32 clamp(I32 a, int32_t low, int32_t high) {
  const __m256i l = _mm256_set1_epi32(low), h = _mm256_set1_epi32(high);
  return {_mm256_min_epi32(_mm256_max_epi32(a.lo, l), h), _mm256_min_epi32(_mm256_max_epi32(a.hi, l), h)};
}
// The first lane of a that equals x, 16 if none does.
inline int first_equal(F32 a, float x) {
  const __m256 v = _mm256_set1_ps(x);
  const int lo = _mm256_movemask_ps(_mm256_cmp_ps(a.lo, v, _CMP_EQ_OQ));
  const int hi = _mm256_movemask_ps(_mm256_cmp_ps(a.hi, v, _CMP_EQ_OQ));
  return __builtin_ctz(static_cast<unsigned>(lo | hi << 8 | 1 << 16));
}
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

// Tokens of the widest micro-kernels: 6 x 16 floats are 12 of the 16 registers; a 4 x 16 integer tile
// keeps its 8 int16 accumulators, two weight vectors and a broadcast.
inline constexpr int kFloatTile = 6;
inline constexpr int kQuantTile = 4;

// Whether an instruction makes float32 of 16-bit floats, so that a copy of them does not pay.
inline constexpr bool kConvertsInRegisters = true;

// Vectors of 16 columns that a tile of kFloatTile rows may have side by side. The tile fills the registers.
inline constexpr int kFloatVectors = 1;

}  // namespace
}  // namespace lanner::LANNER_ISA_NS

#include "simd/vec_avx2_codes.h"
