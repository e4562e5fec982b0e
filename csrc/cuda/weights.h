// In which order weights lie in device memory, and how a lane makes tensor-core operands of them.
//
// A matrix (n, k) is cut into units of 16 rows x 64 k. A unit lies as the A operands of mma m16n8k16, so that
// a lane loads its operands as 16 consecutive bytes, a warp 512, and no weight passes through ldmatrix. Units
// follow each other along k, then along n; n is padded to 16 rows with zeros, k is a multiple of 64. With
// g = lane / 4, c = lane % 4, rows g and g + 8 of the tile:
//
//   A lane holds k = 32 j + 8 c + 0..7 of group j = 0, 1 of the unit: eight neighbours, so that the tokens'
//   side, too, is one load of 16 bytes, x[token g][32 j + 8 c ..], in place of ldmatrix. Step s = 0..3 of the
//   unit is an mma over the 16 k {32 (s / 2) + 8 c + 4 (s % 2) + 0..3}: the order of k within a sum is ours
//   to choose as long as both operands agree.
//     a[0] = [g][first two]  a[1] = [g + 8][first two]  a[2] = [g][last two]  a[3] = [g + 8][last two]
//     b[0], b[1] = the x, y (s even) or z, w (s odd) of the token's 16 bytes of group s / 2
//
//   bf16, 4 loads of 512 bytes: load s is a[0..3] of step s.
//   int8, 2 loads: load j is {step 2j row g, step 2j row g + 8, step 2j + 1 row g, step 2j + 1 row g + 8},
//     each four codes in the byte order k 0, 2, 1, 3: bytes 0 and 2 are a pair, bytes 1 and 3 are a pair.
//     So load j is the A operand of mma m16n8k32, too, of the group's bytes in the order 0 2 1 3 4 6 5 7.
//     Scales, 64 bytes a unit: for each g 8 bytes, f16 [group][row g, row g + 8].
//   int4, 1 load: word 2 j + h is row g + 8 h of group j, eight codes, pair i = 0..3 in nibbles i and i + 4.
//     The low nibbles of its bytes are k 0 4 1 5, the high ones 2 6 3 7 of the A operand of mma m16n8k32.
//     Scales, 128 bytes a unit: for each g 16 bytes, f16 [group][row g, row g + 8][scale, minimum].
//
// A group of 32 codes shares a scale: w = scale * code, or scale * code + minimum with codes 0..15.
#pragma once

#include "cuda/op.h"

namespace lanner::cuda {

inline constexpr int kTileRows = 16;
inline constexpr int kUnitK = 64;
inline constexpr int kUnitSteps = 4;    // of mma m16n8k16
inline constexpr int kGroupK = 32;      // codes of a row that share a scale
inline constexpr int kLoadBytes = 512;  // of a warp

// 512-byte loads of a unit.
LANNER_BOTH constexpr int unit_loads(WeightType type) {
  return type == WeightType::kBf16 ? 4 : type == WeightType::kInt8 ? 2 : 1;
}
LANNER_BOTH constexpr int unit_code_bytes(WeightType type) { return unit_loads(type) * kLoadBytes; }
LANNER_BOTH constexpr int unit_scale_bytes(WeightType type) {
  return type == WeightType::kBf16 ? 0 : type == WeightType::kInt8 ? 64 : 128;
}
// Where the lane's scales of a unit begin: 8 or 16 bytes, the same for the four lanes of a g.
LANNER_BOTH constexpr int lane_scale_offset(WeightType type, int lane) {
  return lane / 4 * (unit_scale_bytes(type) / 8);
}
LANNER_BOTH constexpr int n_tiles(const Weight& w) { return (w.n + kTileRows - 1) / kTileRows; }
LANNER_BOTH constexpr int n_units(const Weight& w) { return w.k / kUnitK; }  // of a tile

inline void check_weight(const char* op, const char* name, const Weight& w) {
  check(w.n > 0, op, ": ", name, " has ", w.n, " rows, wanted at least 1");
  check(w.k > 0 && w.k % kUnitK == 0, op, ": ", name, " has k = ", w.k, ", wanted a positive multiple of ",
        kUnitK);
  check_present(op, name, w.codes);
  check((w.scales != nullptr) == (w.type != WeightType::kBf16), op, ": ", name,
        " must have scales if and only if it is quantized");
}

// What code_fragment() adds to every code: four bits are pairs of bf16 at once as 128 + code.
template <WeightType type>
inline constexpr float kCodeBias = type == WeightType::kInt4 ? 128.0f : 0.0f;

// Step s of a unit from the lane's 16-byte loads of it: the weights of bf16, else code + kCodeBias, whole
// numbers that bf16 holds exactly. s is to be known to the compiler.
template <WeightType type>
LANNER_DEVICE void code_fragment(const Bytes16 (&loads)[unit_loads(type)], int s, uint32_t (&a)[4]) {
  if constexpr (type == WeightType::kBf16) {
    a[0] = loads[s].x, a[1] = loads[s].y, a[2] = loads[s].z, a[3] = loads[s].w;
  } else if constexpr (type == WeightType::kInt8) {
    const Bytes16& load = loads[s / 2];
    const uint32_t rows[2] = {s % 2 ? load.z : load.x, s % 2 ? load.w : load.y};
    LANNER_UNROLL for (int h = 0; h < 2; ++h) {
      LANNER_UNROLL for (int p = 0; p < 2; ++p) {
        // The seven low bits as 128 + them; the sign bit makes of -128 (0xC300) -256 (0xC380).
        const uint32_t pair = rows[h] >> (8 * p);
        a[2 * p + h] = fma_bf16(and_or(pair, 0x007F007Fu, 0x43004300u), 0x3F803F80u,
                                and_or(pair, 0x00800080u, 0xC300C300u));
      }
    }
  } else {
    const Bytes16& load = loads[0];
    const uint32_t rows[2] = {s / 2 ? load.z : load.x, s / 2 ? load.w : load.y};
    LANNER_UNROLL for (int h = 0; h < 2; ++h) {
      LANNER_UNROLL for (int p = 0; p < 2; ++p) a[2 * p + h] =
          and_or(rows[h] >> (4 * (2 * (s % 2) + p)), 0x000F000Fu, 0x43004300u);
    }
  }
}

// Of rows g and g + 8 of the tile; minimum is 0 for int8.
struct GroupScales {
  float scale[2], minimum[2];
};

// Of group j of a unit, from what lies at lane_scale_offset() of the unit's scales.
template <WeightType type>
LANNER_DEVICE GroupScales group_scales(const void* lane_scales, int j) {
  const uint32_t* words = static_cast<const uint32_t*>(lane_scales);
  if constexpr (type == WeightType::kInt8) {
    const Float2 rows = unpack_f16(words[j]);
    return {{rows.x, rows.y}, {0, 0}};
  } else {
    const Float2 low = unpack_f16(words[2 * j]), high = unpack_f16(words[2 * j + 1]);
    return {{low.x, high.x}, {low.y, high.y}};
  }
}

// Step s as weights rounded to bf16: round(scale * code + minimum). The product has at most 19 bits, so that
// float32 rounds only the sum with the minimum.
template <WeightType type>
LANNER_DEVICE void weight_fragment(const Bytes16 (&loads)[unit_loads(type)], const GroupScales& scales, int s,
                                   uint32_t (&a)[4]) {
  code_fragment<type>(loads, s, a);
  if constexpr (type != WeightType::kBf16) {
    LANNER_UNROLL for (int i = 0; i < 4; ++i) {
      const Float2 codes = unpack_bf16(a[i]);
      const float scale = scales.scale[i % 2], minimum = scales.minimum[i % 2];
      a[i] =
          pack_bf16(scale * (codes.x - kCodeBias<type>)+minimum, scale * (codes.y - kCodeBias<type>)+minimum);
    }
  }
}

// Step s of group s / 2 of the tokens' side, from x[token g][32 (s / 2) + 8 c ..].
LANNER_DEVICE void token_fragment(const Bytes16& x, int s, uint32_t (&b)[2]) {
  b[0] = s % 2 ? x.z : x.x, b[1] = s % 2 ? x.w : x.y;
}

}  // namespace lanner::cuda
