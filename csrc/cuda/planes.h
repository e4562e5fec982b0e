// Tokens as integers for tensor cores that multiply bytes: x = scale (high + low / 256), a scale for each
// token and group of 32 k.
//
// scale = max |x| / 127, so that both planes are signed bytes, and low rounds what high leaves: the error is
// 2^-16 of the largest value of the group, where bf16 rounds each value to 2^-9 of itself.
//
//   codes    for each token and unit: [group][c] 16 bytes: high, then low, of k 8 c + 0..7 in the order of
//            the weights'
//   factors  for each token and group: float32 scale, and sum of x
//   squares  for each token and group: float32 sum of x^2, without the weights of the norm
//
// Of few tokens every block of a product makes the planes itself, a stretch of k at a time, in shared memory:
// token by token, with 64 bytes behind the codes of each and 8 behind its factors, so that what the lanes of
// a warp read at once lies in different banks. Of more tokens that would be most of its work, and a kernel of
// its own makes them in a workspace: unit by unit, so that addresses of all tokens are constants apart.
#pragma once

#include "cuda/linear.h"

namespace lanner::cuda {

// Up to which number of tokens a block makes them itself: with 14 KB for it, k = 5952 of one token or 704 of
// eight at once, three blocks fit on an H100.
inline constexpr int kOwnPlanesTokens = 8;
inline constexpr int kOwnPlanesBytes = 14 * 1024;

// Of a token, besides the bytes between tokens.
inline constexpr int kPlanesUnitBytes = 2 * kUnitK + 2 * sizeof(Float2) + 2 * sizeof(float);

// Of a workspace for all tokens that a product may have.
inline int64_t planes_workspace_bytes(const Weight& w) {
  return kSkinnyTokens * (int64_t{n_units(w)} * kPlanesUnitBytes + 64 + 8);
}

// Which k of a lane's eight is byte i of its operand (weights.h): 0 2 1 3 4 6 5 7, or 0 4 1 5 2 6 3 7.
LANNER_BOTH constexpr int byte_k(WeightType type, int i) {
  return type == WeightType::kInt8 ? (i & 4) + i % 2 * 2 + i / 2 % 2 : i % 2 * 4 + i / 2;
}

// 256 high + low = round(x inverse): {high, high, low, low}.
template <WeightType type>
LANNER_DEVICE Bytes16 planes_of(const float (&x)[8], float inverse) {
  // 1.5 * 2^23: the last bits of a float near it are a whole number. With 128 added to it, byte 1 is `high`
  // whatever the sign of `low`, and byte 0 is low + 128.
  constexpr float kWhole = 12582912.0f + 128.0f;
  uint32_t high[2], low[2];
  LANNER_UNROLL for (int h = 0; h < 2; ++h) {
    uint32_t v[4];
    LANNER_UNROLL for (int i = 0; i < 4; ++i) v[i] =
        bits_of(fmaf(x[byte_k(type, 4 * h + i)], inverse, kWhole));
    const uint32_t first = select_bytes(v[0], v[1], 0x5140), second = select_bytes(v[2], v[3], 0x5140);
    high[h] = select_bytes(first, second, 0x7632);
    low[h] = select_bytes(first, second, 0x5410) ^ 0x80808080u;
  }
  return {high[0], high[1], low[0], low[1]};
}

// Of n_slots tokens, n_units of each; kSlots: as many in a workspace, 0 in shared memory. Slots behind the
// last token have that one again: columns do not see each other, and nobody asks for theirs.
template <WeightType type, bool kNorm, int kSlots>
class Planes {
 public:
  // From a unit of a token to its next one, and from a group.
  static constexpr int kNextUnit = (kSlots ? kSlots : 1) * 2 * kUnitK;
  static constexpr int kNextGroup = (kSlots ? kSlots : 1) * sizeof(Float2);

  LANNER_DEVICE Planes(std::byte* memory, int n_slots, int n_units)
      : memory_(memory), n_slots_(n_slots), n_units_(n_units) {
    factors_ = n_slots * (n_units * 2 * kUnitK + (kSlots ? 0 : 64));
    squares_ = factors_ + n_slots * (n_units * 2 * sizeof(Float2) + (kSlots ? 0 : 8));
  }

  // Units first .. first + n_units of n_tokens, by `n_threads`, of which this is number `thread`.
  LANNER_DEVICE void fill(const LinearArgs& args, int n_tokens, int first, int n_units, int thread,
                          int n_threads) {
    const int octets = n_units * (kUnitK / 8), total = n_slots_ * octets;
    LANNER_ROLLED
    for (int i = thread; i - lane_index() < total; i += n_threads) {
      // Lanes past the end do what the last one does, but store nothing.
      const int at = i < total ? i : total - 1, slot = at / octets, octet = at % octets;
      const int token = slot < n_tokens ? slot : n_tokens - 1;
      const int k = first * kUnitK + octet * 8;
      float x[8], squares = 0;
      unpack(load16(args.x + (token * args.weight.k + k)), x);
      if constexpr (kNorm) {
        float weight[8];
        load(args.norm_weight + k, weight);
        LANNER_UNROLL for (int e = 0; e < 8; ++e) {
          squares += x[e] * x[e];
          x[e] *= weight[e];
        }
        squares = of_group(squares);
      }
      float sum = 0;
      LANNER_UNROLL for (int e = 0; e < 8; ++e) sum += x[e];
      sum = of_group(sum);
      const float scale = scale_of(x), inverse = scale == 0.0f ? 0.0f : 256.0f * rcp_approx(scale);
      if (i >= total) continue;
      store16(memory_ + codes_at(slot) + octet / 8 * kNextUnit + octet % 8 * 16, planes_of<type>(x, inverse));
      if (octet % 4 != 0) continue;
      const int group = octet / 4;
      *reinterpret_cast<Float2*>(memory_ + factors_at(slot) + group * kNextGroup) = {scale, sum};
      if constexpr (kNorm) squares_of(slot)[group] = squares;
    }
  }

  // Adds the squares of units first .. first + n_units of the tokens that are this warp's, warp + 8 t: a lane
  // takes every 32nd group of k, so that the order does not depend on the stretches.
  template <int kOwn>
  LANNER_DEVICE void add_squares(float (&sums)[kOwn], int n_tokens, int warp, int first, int n_units) const {
    LANNER_UNROLL for (int t = 0; t < kOwn; ++t) {
      if (warp + 8 * t >= n_tokens) break;
      LANNER_ROLLED
      for (int i = (lane_index() - 2 * first) & 31; i < 2 * n_units; i += kWarpSize)
        sums[t] += squares_of(warp + 8 * t)[i];
    }
  }

  // Where the codes and factors of a slot begin in the memory.
  LANNER_DEVICE int codes_at(int slot) const {
    return slot * (kSlots ? 2 * kUnitK : n_units_ * kNextUnit + 64);
  }
  LANNER_DEVICE int factors_at(int slot) const {
    return factors_ + slot * (kSlots ? static_cast<int>(sizeof(Float2)) : 2 * n_units_ * kNextGroup + 8);
  }

 private:
  LANNER_DEVICE float* squares_of(int slot) const {
    return reinterpret_cast<float*>(memory_ + squares_) + slot * 2 * n_units_;
  }

  static LANNER_DEVICE float of_group(float x) {
    x += shuffle_xor(x, 1);
    return x + shuffle_xor(x, 2);
  }
  // Of the group. Sizes are compared as integers, for which NaN is above them all. What is too small for a
  // reciprocal is zero; infinity, of which a product would have the sign of its bits, is no number.
  static LANNER_DEVICE float scale_of(const float (&x)[8]) {
    uint32_t most = 0;
    const auto take = [&most](uint32_t size) { most = size > most ? size : most; };
    LANNER_UNROLL for (int e = 0; e < 8; ++e) take(bits_of(x[e]) & 0x7fffffffu);
    take(shuffle_xor(most, 1));
    take(shuffle_xor(most, 2));
    if (most < bits_of(0x1p-100f)) return 0.0f;
    return most == 0x7f800000u ? float_of(0x7fffffffu) : float_of(most) * (1.0f / 127.0f);
  }

  std::byte* memory_;
  int n_slots_, n_units_, factors_, squares_;
};

// Units of the tokens that a block makes at once: as many as fit, and as many for each warp that shares a
// tile.
LANNER_BOTH constexpr int own_planes_units(int n_tokens, int n_units, int n_splits) {
  const int fit = (kOwnPlanesBytes / n_tokens - 64 - 8) / kPlanesUnitBytes;
  const int even = fit >= n_splits ? fit / n_splits * n_splits : fit;
  return even < n_units ? even : n_units;
}

}  // namespace lanner::cuda
