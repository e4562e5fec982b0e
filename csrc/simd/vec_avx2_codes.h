// Codes of packed weights, and their dot products with quantized activations. A part of vec_avx2.h.
#pragma once

#include "simd/vec_avx2.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// --- packed codes ------------------------------------------------------------------------------------
inline Codes load_codes(const void* p) {
  const __m256i* q = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
// The same into registers that stay: read anew for every product, they would be a load each, where two can
// be in a cycle and every token brings one of its own.
inline Codes load_unpacked(const void* p) {
  Codes c = load_codes(p);
  asm("" : "+x"(c.lo), "+x"(c.hi));
  return c;
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
// codes | (plane >> from & mask) << to, byte by byte.
template <int from, int to, int mask>
inline Codes with_bits(Codes codes, Codes plane) {
  const __m256i bits = _mm256_set1_epi8(static_cast<char>(mask << to));
  auto moved = [](__m256i x) {
    if constexpr (from < to)
      return _mm256_slli_epi16(x, to - from);
    else
      return _mm256_srli_epi16(x, from - to);
  };
  return {_mm256_or_si256(codes.lo, _mm256_and_si256(moved(plane.lo), bits)),
          _mm256_or_si256(codes.hi, _mm256_and_si256(moved(plane.hi), bits))};
}
inline Codes zero_codes() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
// table[i] of each byte, 0 <= i < 16.
inline Codes lookup(const int8_t* table, Codes i) {
  const __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  return {_mm256_shuffle_epi8(t, i.lo), _mm256_shuffle_epi8(t, i.hi)};
}

// --- integer dot products ----------------------------------------------------------------------------
// u4 and u5 codes times int8: a pair of products is at most 2*31*127 = 7874, so four groups fit in int16,
// and eight groups of 4-bit codes (8 * 2*15*127 = 30480) do; of u6 codes two (2 * 2*63*127 = 32004), of u2
// and u3 more than eight.
//
// The compiler may add integers in another order than is written, and likes to form all products before it
// adds any: they do not fit the registers. in_order() makes it finish a sum before the next begins.
inline void in_order(__m256i& a, __m256i& b) { asm("" : "+x"(a), "+x"(b)); }
inline Pairs dot_start(Codes w, const int8_t* x4) {
  int32_t bits;
  std::memcpy(&bits, x4, 4);
  const __m256i x = _mm256_set1_epi32(bits);
  return {_mm256_maddubs_epi16(w.lo, x), _mm256_maddubs_epi16(w.hi, x)};
}
inline void dot_add(Pairs& sum, Codes w, const int8_t* x4) {
  const Pairs p = dot_start(w, x4);
  sum = {_mm256_add_epi16(sum.lo, p.lo), _mm256_add_epi16(sum.hi, p.hi)};
  in_order(sum.lo, sum.hi);
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
  WidePairs w = {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
  // In registers: read anew for every product, they would be three loads where two can be.
  in_order(w.lo, w.hi);
  return w;
}
inline void store_i16_pairs(void* p, WidePairs w) {
  __m256i* q = static_cast<__m256i*>(p);
  _mm256_storeu_si256(q, w.lo), _mm256_storeu_si256(q + 1, w.hi);
}
inline I32 dot2_add(I32 sum, WidePairs w, const int16_t* x2) {
  int32_t bits;
  std::memcpy(&bits, x2, 4);
  const __m256i x = _mm256_set1_epi32(bits);
  sum = {_mm256_add_epi32(sum.lo, _mm256_madd_epi16(w.lo, x)),
         _mm256_add_epi32(sum.hi, _mm256_madd_epi16(w.hi, x))};
  in_order(sum.lo, sum.hi);
  return sum;
}

// Low (shift 0) or high (shift 4) nibbles of 32 bytes as int16 pairs, as they are or through a table.
inline WidePairs widen(__m256i bytes) {
  return {_mm256_cvtepi8_epi16(_mm256_castsi256_si128(bytes)),
          _mm256_cvtepi8_epi16(_mm256_extracti128_si256(bytes, 1))};
}
template <int shift>
inline WidePairs load_nibble_pairs(const void* p) {
  const __m256i v = _mm256_loadu_si256(static_cast<const __m256i*>(p));
  return widen(_mm256_and_si256(_mm256_srli_epi16(v, shift), _mm256_set1_epi8(15)));
}
template <int shift>
inline WidePairs lookup_nibble_pairs(const int8_t* table, const void* p) {
  const __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  const __m256i v = _mm256_loadu_si256(static_cast<const __m256i*>(p));
  return widen(_mm256_shuffle_epi8(t, _mm256_and_si256(_mm256_srli_epi16(v, shift), _mm256_set1_epi8(15))));
}
inline WidePairs operator*(WidePairs a, int16_t x) {
  const __m256i v = _mm256_set1_epi16(x);
  return {_mm256_mullo_epi16(a.lo, v), _mm256_mullo_epi16(a.hi, v)};
}

// An integer per row that multiplies the sums of a half of a block: value h of a pair.
struct RowFactors {
  __m256i lo, hi;
};  // twice in the two int16 of a row: vpmaddwd multiplies where it adds
template <int h>
inline RowFactors factors_of(WidePairs a) {
  const __m256i twice = _mm256_set1_epi32(h == 0 ? 0x01000100 : 0x03020302);
  const __m256i at = _mm256_add_epi32(
      twice, _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404, 0x08080808, 0x0c0c0c0c));
  return {_mm256_shuffle_epi8(a.lo, at), _mm256_shuffle_epi8(a.hi, at)};
}
inline I32 dot_finish(Pairs sum, RowFactors f) {
  return {_mm256_madd_epi16(sum.lo, f.lo), _mm256_madd_epi16(sum.hi, f.hi)};
}
inline void dot_add(I32& sum, Pairs pairs, RowFactors f) {
  sum = sum + dot_finish(pairs, f);
  in_order(sum.lo, sum.hi);
}
// Groups of u6 codes that an int16 lane can hold.
inline constexpr int kDepthU6 = 2;

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
