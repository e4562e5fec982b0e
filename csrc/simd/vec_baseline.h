// The baseline: compiler vectors of 16 lanes, lowered to whatever the target has (SSE on x86-64-v2).
// Fused multiply-adds are two roundings here; the compiler may not contract them (-ffp-contract=off).
#pragma once

#include <cmath>

namespace lanner::LANNER_ISA_NS {
namespace {

typedef float F32 __attribute__((vector_size(64)));
typedef int32_t I32 __attribute__((vector_size(64)));
typedef uint8_t Codes __attribute__((vector_size(64)));
typedef int16_t Half16 __attribute__((vector_size(32)));
typedef int16_t WidePairs __attribute__((vector_size(64)));
typedef int8_t Bytes32 __attribute__((vector_size(32)));
using Pairs = I32;

template <class V>
inline V load_as(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// --- float32 -----------------------------------------------------------------------------------------
inline F32 zero() { return F32{}; }
inline F32 set1(float x) { return x - F32{}; }  // a sum would lose the sign of -0
inline F32 load(const float* p) { return load_as<F32>(p); }
inline void store(float* p, F32 a) { std::memcpy(p, &a, sizeof a); }
inline F32 fma(F32 a, F32 b, F32 c) { return a * b + c; }
inline F32 fms(F32 a, F32 b, F32 c) { return a * b - c; }
inline F32 max(F32 a, F32 b) { return a > b ? a : b; }
inline F32 min(F32 a, F32 b) { return a < b ? a : b; }
inline F32 abs(F32 a) { return reinterpret_cast<F32>(reinterpret_cast<I32>(a) & 0x7fffffff); }

// Reductions pair lane i with i+8, i+4, i+2, i+1, in this order on every instruction set.
template <class V, class Join>
inline auto reduce(V a, Join join) {
  for (int half = 8; half >= 1; half /= 2)
    for (int i = 0; i < half; ++i) a[i] = join(a[i], a[i + half]);
  return a[0];
}
inline float hsum(F32 a) {
  return reduce(a, [](float x, float y) { return x + y; });
}
inline float hmax(F32 a) {
  return reduce(a, [](float x, float y) { return x > y ? x : y; });
}
// Largest magnitude of the 32 lanes of a and b, NaN above all: as integers, bits without a sign order so.
inline float largest_magnitude(F32 a, F32 b) {
  const I32 x = reinterpret_cast<I32>(abs(a)), y = reinterpret_cast<I32>(abs(b));
  const int32_t bits = reduce(x > y ? x : y, [](int32_t p, int32_t q) { return p > q ? p : q; });
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
inline I32 lanes() { return I32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }
// Lanes 0 to n-1 of a, the others from b.
inline F32 keep_first(F32 a, int n, F32 b) { return lanes() < n ? a : b; }

// Lanes of a whose bit is set (lane 0: bit 0), the others from b.
inline F32 keep_lanes(F32 a, uint32_t bits, F32 b) {
  return (static_cast<int32_t>(bits) >> lanes() & 1) != 0 ? a : b;
}

// v, or 0 in lanes where x < limit; a NaN in x keeps v.
inline F32 zero_below(F32 v, F32 x, float limit) { return x < limit ? F32{} : v; }

// Whether a lane is above limit; NaN is.
inline bool any_above(F32 x, float limit) {
  const I32 within = x <= limit;
  return reduce(within, [](int32_t p, int32_t q) { return p & q; }) == 0;
}

// There is no portable store past the caches: an ordinary one.
inline void store_past_caches(float* p, F32 a) { store(p, a); }
inline void finish_stores() {}

// to[16 i + j] = element i of row j, of 16 rows of float32 that are `stride` bytes apart.
inline void transpose16(const std::byte* from, int64_t stride, float* to) {
  for (int j = 0; j < 16; ++j, from += stride) {
    const F32 row = load_as<F32>(from);
    for (int i = 0; i < 16; ++i) to[16 * i + j] = row[i];
  }
}

// --- 16-bit floats -----------------------------------------------------------------------------------
inline float f16_to_f32(uint16_t h) {
  const uint32_t sign = (h & 0x8000u) << 16, magnitude = h & 0x7fffu;
  uint32_t bits;
  if (magnitude >= 0x7c00) {  // infinity, NaN
    bits = 0x7f800000u | (magnitude & 0x3ffu) << 13;
  } else if (magnitude >= 0x400) {  // normal: rebias the exponent from 15 to 127
    bits = (magnitude << 13) + ((127u - 15u) << 23);
  } else {  // subnormal: magnitude * 2^-24 is exact
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    std::memcpy(&bits, &value, 4);
  }
  bits |= sign;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
inline uint16_t f32_to_f16(float x) {  // to nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | (magnitude >> 13 & 0x1ffu));
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds past 65504
  if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 leaves round(x * 2^24) in the low bits
    float value;
    std::memcpy(&value, &magnitude, 4);
    value += 0.5f;
    uint32_t sum;
    std::memcpy(&sum, &value, 4);
    return static_cast<uint16_t>(sign | (sum - 0x3f000000u));
  }
  const uint32_t odd = magnitude >> 13 & 1u;
  return static_cast<uint16_t>(sign | ((magnitude - ((127u - 15u) << 23) + 0xfffu + odd) >> 13));
}
inline F32 load_f16(const void* p) {
  uint16_t h[16];
  std::memcpy(h, p, sizeof h);
  F32 out;
  for (int i = 0; i < 16; ++i) out[i] = f16_to_f32(h[i]);
  return out;
}
inline void store_f16(void* p, F32 a) {
  uint16_t h[16];
  for (int i = 0; i < 16; ++i) h[i] = f32_to_f16(a[i]);
  std::memcpy(p, h, sizeof h);
}
inline F32 load_bf16(const void* p) {
  return reinterpret_cast<F32>(__builtin_convertvector(load_as<Half16>(p), I32) << 16);
}

inline float load_f16_1(const void* p) {
  uint16_t half;
  std::memcpy(&half, p, 2);
  return f16_to_f32(half);
}
inline uint16_t to_f16(float x) { return f32_to_f16(x); }

// --- int32 -------------------------------------------------------------------------------------------
inline I32 zero_i32() { return I32{}; }
// NaN and what does not fit become INT32_MIN, as the vector instructions have it.
inline I32 round_i32(F32 a) {
  I32 out;
  for (int i = 0; i < 16; ++i)
    out[i] = std::fabs(a[i]) < 0x1p31f ? static_cast<int32_t>(std::nearbyintf(a[i])) : INT32_MIN;
  return out;
}
// The same bits.
inline F32 as_f32(I32 a) { return reinterpret_cast<F32>(a); }
inline F32 to_f32(I32 a) { return __builtin_convertvector(a, F32); }
inline int32_t hsum(I32 a) {
  return reduce(a, [](int32_t x, int32_t y) { return x + y; });
}
// a * 2^n by adding n to the exponent; a and the result are normal numbers.
inline F32 scale_by_pow2(F32 a, I32 n) { return reinterpret_cast<F32>(reinterpret_cast<I32>(a) + (n << 23)); }
inline I32 clamp(I32 a, int32_t low, int32_t high) {
  const I32 lows = I32{} + low, highs = I32{} + high;
  a = a < lows ? lows : a;
  return a > highs ? highs : a;
}
// To the nearest integer, as a float; a * 2^n for such an n. NaN stays NaN; elsewhere both are normal
// numbers. Below 2^22, adding 1.5 * 2^23 leaves no room for a fraction.
inline F32 round_f32(F32 a) { return a + 12582912.0f - 12582912.0f; }
inline F32 times_pow2(F32 a, F32 n) {
  const I32 whole = n == n ? __builtin_convertvector(n, I32) : I32{};
  return scale_by_pow2(a, whole);
}
inline I32 set1_i32(int32_t x) { return I32{} + x; }
inline I32 load_u8(const void* p) {
  typedef uint8_t Bytes16 __attribute__((vector_size(16)));
  return __builtin_convertvector(load_as<Bytes16>(p), I32);
}
inline I32 load_i8(const void* p) {
  typedef int8_t Bytes16 __attribute__((vector_size(16)));
  return __builtin_convertvector(load_as<Bytes16>(p), I32);
}
inline void store_u8(void* p, I32 a) {  // saturates
  a = clamp(a, 0, 255);
  uint8_t* out = static_cast<uint8_t*>(p);
  for (int i = 0; i < 16; ++i) out[i] = static_cast<uint8_t>(a[i]);
}
// Bit i of the result is bit 0 of lane i.
inline uint32_t low_bits(I32 a) {
  uint32_t bits = 0;
  for (int i = 0; i < 16; ++i) bits |= static_cast<uint32_t>(a[i] & 1) << i;
  return bits;
}
// Bit i of the result: lane i is at least limit; NaN is not.
inline uint32_t at_least(F32 x, float limit) { return low_bits(x >= limit); }
// Writes the lanes of a whose bit is set one behind the other; what follows them, up to 16 in all, is lost.
inline void compress(float* to, F32 a, uint32_t bits) {
  float lanes[16];
  store(lanes, a);
  for (int n = 0; bits; bits &= bits - 1) to[n++] = lanes[__builtin_ctz(bits)];
}
// Bit i of `bits` in lane i, 0 or 1.
inline I32 lane_bits(uint32_t bits) { return (I32{} + static_cast<int32_t>(bits & 0xffff)) >> lanes() & 1; }
// table[i] of each lane, 0 <= i < 16.
inline I32 lookup(const int8_t* table, I32 i) {
  I32 out;
  for (int lane = 0; lane < 16; ++lane) out[lane] = table[i[lane]];
  return out;
}
// Towards zero; NaN and what does not fit become INT32_MIN.
inline I32 truncate_i32(F32 a) {
  I32 out;
  for (int i = 0; i < 16; ++i) out[i] = std::fabs(a[i]) < 0x1p31f ? static_cast<int32_t>(a[i]) : INT32_MIN;
  return out;
}
// The first lane of a that equals x, 16 if none does.
inline int first_equal(F32 a, float x) {
  int i = 0;
  while (i < 16 && a[i] != x) ++i;
  return i;
}
inline void store_i8(int8_t* p, I32 a) {  // saturates
  a = clamp(a, -128, 127);
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(a[i]);
}
inline void store_i16(int16_t* p, I32 a) {  // saturates
  a = clamp(a, -32768, 32767);
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int16_t>(a[i]);
}

// --- packed codes ------------------------------------------------------------------------------------
inline Codes load_codes(const void* p) { return load_as<Codes>(p); }
inline Codes load_unpacked(const void* p) { return load_codes(p); }
inline void store_codes(void* p, Codes c) { std::memcpy(p, &c, sizeof c); }
inline Codes low_nibbles(Codes c) { return c & 15; }
inline Codes high_nibbles(Codes c) { return c >> 4; }
// codes | (plane >> from & mask) << to, byte by byte.
template <int from, int to, int mask>
inline Codes with_bits(Codes codes, Codes plane) {
  return codes | (plane >> from & static_cast<uint8_t>(mask)) << to;
}
inline Codes zero_codes() { return Codes{}; }
// table[i] of each byte, 0 <= i < 16.
inline Codes lookup(const int8_t* table, Codes i) {
  Codes out;
  for (int byte = 0; byte < 64; ++byte) out[byte] = static_cast<uint8_t>(table[i[byte]]);
  return out;
}

// --- integer dot products ----------------------------------------------------------------------------
// Byte j of a 32-bit lane is value j of K (little endian).
inline Pairs dot_start(Codes w, const int8_t* x4) {
  const I32 quad = reinterpret_cast<I32>(w);
  return (quad & 255) * x4[0] + (quad >> 8 & 255) * x4[1] + (quad >> 16 & 255) * x4[2] +
         (quad >> 24 & 255) * x4[3];
}
inline void dot_add(Pairs& sum, Codes w, const int8_t* x4) { sum += dot_start(w, x4); }
inline I32 dot_finish(Pairs sum) { return sum; }
// sum += w * x for 16 rows x 2 int8 weights and one pair of int16 activations.
inline WidePairs load_i8_pairs(const void* p) {
  return __builtin_convertvector(load_as<Bytes32>(p), WidePairs);
}
inline WidePairs load_i16_pairs(const void* p) { return load_as<WidePairs>(p); }
inline void store_i16_pairs(void* p, WidePairs w) { std::memcpy(p, &w, sizeof w); }
inline I32 dot2_add(I32 sum, WidePairs w, const int16_t* x2) {
  const I32 pair = reinterpret_cast<I32>(w);
  return sum + (pair << 16 >> 16) * x2[0] + (pair >> 16) * x2[1];
}

// Low (shift 0) or high (shift 4) nibbles of 32 bytes as int16 pairs, as they are or through a table.
template <int shift>
inline WidePairs load_nibble_pairs(const void* p) {
  return __builtin_convertvector(load_as<Bytes32>(p) >> shift & 15, WidePairs);
}
template <int shift>
inline WidePairs lookup_nibble_pairs(const int8_t* table, const void* p) {
  const Bytes32 nibbles = load_as<Bytes32>(p) >> shift & 15;
  WidePairs out;
  for (int i = 0; i < 32; ++i) out[i] = table[nibbles[i]];
  return out;
}

// An integer per row that multiplies the sums of a half of a block: value h of a pair.
using RowFactors = I32;
template <int h>
inline RowFactors factors_of(WidePairs a) {
  return (h == 0 ? reinterpret_cast<I32>(a) << 16 : reinterpret_cast<I32>(a)) >> 16;
}
inline I32 dot_finish(Pairs sum, RowFactors f) { return sum * f; }
inline void dot_add(I32& sum, Pairs pairs, RowFactors f) { sum = sum + dot_finish(pairs, f); }
// Groups of u6 codes that an int32 lane sums, of the four of a half.
inline constexpr int kDepthU6 = 4;

// Sixteen 128-bit registers hold four vectors of 16 lanes: a tile of two tokens still reuses its weights.
inline constexpr int kFloatTile = 2;
inline constexpr int kQuantTile = 2;

// Whether an instruction makes float32 of 16-bit floats, so that a copy of them does not pay.
inline constexpr bool kConvertsInRegisters = false;

// Vectors of 16 columns that a tile of kFloatTile rows may have side by side. The tile fills the registers.
inline constexpr int kFloatVectors = 1;

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
