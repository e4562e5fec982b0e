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
inline F32 fms(F32 a, F32 b, F32 c) { return {_mm512_fmsub_ps(a.v, b.v, c.v)}; }  // a * b - c
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

// Lanes of a whose bit is set (lane 0: bit 0), the others from b.
inline F32 keep_lanes(F32 a, uint32_t bits, F32 b) {
  return {_mm512_mask_blend_ps(static_cast<__mmask16>(bits), b.v, a.v)};
}

// v, or 0 in lanes where x < limit; a NaN in x keeps v.
inline F32 zero_below(F32 v, F32 x, float limit) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, _mm512_set1_ps(limit), _CMP_NLT_UQ), v.v)};
}

// To the nearest integer, as a float; a * 2^n for such an n. NaN stays NaN; elsewhere both are normal
// numbers.
inline F32 round_f32(F32 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline F32 times_pow2(F32 a, F32 n) { return {_mm512_scalef_ps(a.v, n.v)}; }

// Whether a lane is above limit; NaN is.
inline bool any_above(F32 x, float limit) {
  return _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(limit), _CMP_NLE_UQ) != 0;
}

// Bit i of the result: lane i is at least limit; NaN is not.
inline uint32_t at_least(F32 x, float limit) {
  return _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(limit), _CMP_GE_OQ);
}

// Writes the lanes of a whose bit is set one behind the other; what follows them, up to 16 in all, is lost.
inline void compress(float* to, F32 a, uint32_t bits) {
  _mm512_storeu_ps(to, _mm512_maskz_compress_ps(static_cast<__mmask16>(bits), a.v));
}

// A store that does not read its line first, to an address that is a multiple of 64; finish_stores() before
// another thread may look.
inline void store_past_caches(float* p, F32 a) { _mm512_stream_ps(p, a.v); }
inline void finish_stores() { _mm_sfence(); }

// to[16 i + j] = element i of row j, of 16 rows of float32 that are `stride` bytes apart.
inline void transpose16(const std::byte* from, int64_t stride, float* to) {
  // Rows r, r + 4, r + 8 and r + 12 share a register, so that 4 x 4 blocks are transposed within its
  // quarters.
  auto four = [&](int row, int column) {
    const float* p = reinterpret_cast<const float*>(from + row * stride) + column;
    auto next = [&](int rows) {
      return _mm_loadu_ps(
          reinterpret_cast<const float*>(reinterpret_cast<const std::byte*>(p) + rows * stride));
    };
    __m512 x = _mm512_castps128_ps512(next(0));
    x = _mm512_mask_broadcast_f32x4(x, 0x00f0, next(4));  // a load and a blend; an insert needs a shuffle
    x = _mm512_mask_broadcast_f32x4(x, 0x0f00, next(8));
    return _mm512_mask_broadcast_f32x4(x, 0xf000, next(12));
  };
  for (int column = 0; column < 16; column += 4) {
    const __m512 a = four(0, column), b = four(1, column), c = four(2, column), d = four(3, column);
    const __m512d ab_lo = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
    const __m512d ab_hi = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
    const __m512d cd_lo = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
    const __m512d cd_hi = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
    float* out = to + 16 * column;
    _mm512_storeu_ps(out, _mm512_castpd_ps(_mm512_unpacklo_pd(ab_lo, cd_lo)));
    _mm512_storeu_ps(out + 16, _mm512_castpd_ps(_mm512_unpackhi_pd(ab_lo, cd_lo)));
    _mm512_storeu_ps(out + 32, _mm512_castpd_ps(_mm512_unpacklo_pd(ab_hi, cd_hi)));
    _mm512_storeu_ps(out + 48, _mm512_castpd_ps(_mm512_unpackhi_pd(ab_hi, cd_hi)));
  }
}

// --- 16-bit floats -----------------------------------------------------------------------------------
inline __m256i load_256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store_256(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
inline F32 load_f16(const void* p) { return {_mm512_cvtph_ps(load_256(p))}; }
inline void store_f16(void* p, F32 a) { store_256(p, _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT)); }
inline F32 load_bf16(const void* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_256(p)), 16))};
}

inline float load_f16_1(const void* p) {
  uint16_t half;
  std::memcpy(&half, p, 2);
  return _cvtsh_ss(half);
}
inline uint16_t to_f16(float x) { return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }

// --- int32 -------------------------------------------------------------------------------------------
inline I32 zero_i32() { return {_mm512_setzero_si512()}; }
inline I32 round_i32(F32 a) { return {_mm512_cvtps_epi32(a.v)}; }
// The same bits.
inline F32 as_f32(I32 a) { return {_mm512_castsi512_ps(a.v)}; }
inline F32 to_f32(I32 a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline I32 operator+(I32 a, I32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I32 operator&(I32 a, int32_t mask) { return {_mm512_and_si512(a.v, _mm512_set1_epi32(mask))}; }
inline I32 operator|(I32 a, I32 b) { return {_mm512_or_si512(a.v, b.v)}; }
inline I32 operator>>(I32 a, int n) { return {_mm512_srai_epi32(a.v, static_cast<unsigned>(n))}; }
inline I32 operator<<(I32 a, int n) { return {_mm512_slli_epi32(a.v, static_cast<unsigned>(n))}; }
inline I32 set1_i32(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline __m128i load_128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline I32 load_u8(const void* p) { return {_mm512_cvtepu8_epi32(load_128(p))}; }
inline I32 load_i8(const void* p) { return {_mm512_cvtepi8_epi32(load_128(p))}; }
inline void store_u8(void* p, I32 a) {  // saturates
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtusepi32_epi8(a.v));
}
// Bit i of the result is bit 0 of lane i.
inline uint32_t low_bits(I32 a) { return _mm512_test_epi32_mask(a.v, _mm512_set1_epi32(1)); }
// Bit i of `bits` in lane i, 0 or 1.
inline I32 lane_bits(uint32_t bits) { return {_mm512_maskz_set1_epi32(static_cast<__mmask16>(bits), 1)}; }
// table[i] of each lane, 0 <= i < 16.
inline I32 lookup(const int8_t* table, I32 i) {
  return {_mm512_permutexvar_epi32(i.v, _mm512_cvtepi8_epi32(load_128(table)))};
}
// Towards zero; NaN and what does not fit become INT32_MIN.
inline I32 truncate_i32(F32 a) { return {_mm512_cvttps_epi32(a.v)}; }
inline I32 clamp(I32 a, int32_t low, int32_t high) {
  return {_mm512_min_epi32(_mm512_max_epi32(a.v, _mm512_set1_epi32(low)), _mm512_set1_epi32(high))};
}
// The first lane of a that equals x, 16 if none does.
inline int first_equal(F32 a, float x) {
  const unsigned equal = _mm512_cmp_ps_mask(a.v, _mm512_set1_ps(x), _CMP_EQ_OQ);
  return __builtin_ctz(equal | 1u << 16);
}
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
inline Codes load_unpacked(const void* p) { return load_codes(p); }
inline void store_codes(void* p, Codes c) { _mm512_storeu_si512(p, c.v); }
inline Codes low_nibbles(Codes c) { return {_mm512_and_si512(c.v, _mm512_set1_epi8(15))}; }
inline Codes high_nibbles(Codes c) {
  return {_mm512_and_si512(_mm512_srli_epi16(c.v, 4), _mm512_set1_epi8(15))};
}
// codes | (plane >> from & mask) << to, byte by byte.
template <int from, int to, int mask>
inline Codes with_bits(Codes codes, Codes plane) {
  constexpr unsigned left = from < to ? to - from : 0, right = from < to ? 0 : from - to;
  const __m512i moved = from < to ? _mm512_slli_epi16(plane.v, left) : _mm512_srli_epi16(plane.v, right);
  // 0xf8: a | (b & c)
  return {_mm512_ternarylogic_epi32(codes.v, moved, _mm512_set1_epi8(static_cast<char>(mask << to)), 0xf8)};
}
inline Codes zero_codes() { return {_mm512_setzero_si512()}; }
// table[i] of each byte, 0 <= i < 16.
inline Codes lookup(const int8_t* table, Codes i) {
  return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(load_128(table)), i.v)};
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

// Low (shift 0) or high (shift 4) nibbles of 32 bytes as int16 pairs, as they are or through a table.
template <int shift>
inline __m256i nibbles_256(const void* p) {
  return _mm256_and_si256(_mm256_srli_epi16(load_256(p), shift), _mm256_set1_epi8(15));
}
template <int shift>
inline WidePairs load_nibble_pairs(const void* p) {
  return {_mm512_cvtepi8_epi16(nibbles_256<shift>(p))};
}
template <int shift>
inline WidePairs lookup_nibble_pairs(const int8_t* table, const void* p) {
  const __m256i t = _mm256_broadcastsi128_si256(load_128(table));
  return {_mm512_cvtepi8_epi16(_mm256_shuffle_epi8(t, nibbles_256<shift>(p)))};
}
inline WidePairs operator*(WidePairs a, int16_t x) { return {_mm512_mullo_epi16(a.v, _mm512_set1_epi16(x))}; }

// An integer per row that multiplies the sums of a half of a block: value h of a pair.
using RowFactors = I32;
template <int h>
inline RowFactors factors_of(WidePairs a) {
  return {_mm512_srai_epi32(h == 0 ? _mm512_slli_epi32(a.v, 16) : a.v, 16)};
}
inline I32 dot_finish(Pairs sum, RowFactors f) { return {_mm512_mullo_epi32(sum.v, f.v)}; }
inline void dot_add(I32& sum, Pairs pairs, RowFactors f) { sum = sum + dot_finish(pairs, f); }
// Groups of u6 codes that an int32 lane sums, of the four of a half.
inline constexpr int kDepthU6 = 4;

// Tokens of the widest micro-kernels: twelve chains hide a latency of 4 on two pipes and a load beside them;
// eight tokens keep their integer and their float sums, 16 of the 32 registers.
inline constexpr int kFloatTile = 12;
inline constexpr int kQuantTile = 8;

// Whether an instruction makes float32 of 16-bit floats, so that a copy of them does not pay.
inline constexpr bool kConvertsInRegisters = true;

// Vectors of 16 columns that a tile of kFloatTile rows may have side by side. Two vectors beside each other
// halve the broadcasts: 24 sums, 2 operands and a broadcast are 27 of 32 registers.
inline constexpr int kFloatVectors = 2;

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
