// Tokens as integers for tensor cores that multiply bytes: x = scale (high + low / 256), a scale for each
// token and group of 32 k.
//
// scale = max |x| / 127, so that both planes are signed bytes, and low rounds what high leaves: the error is
// 2^-16 of the largest value of the group, where bf16 rounds each value to 2^-9 of itself. A block makes a
// stretch of k at a time, in shared memory, for all its warps:
//
//   codes    [token][unit][group][c]  16 bytes: high, then low, of k 8 c + 0..7 in the order of the weights'
//   factors  [token][group]           float32 scale, and sum of x
//   squares  [token][group]           float32 sum of x^2, without the weights of the norm
//
// Of a token, 64 bytes lie behind its codes and 8 behind its factors, so that what the lanes of a warp read
// at once, of different tokens, lies in different banks.
#pragma once

#include "cuda/linear.h"

namespace lanner::cuda {

// Of all tokens at once: k = 5952 of one token, 704 of eight, 448 of 32. With the rings, three blocks fit on
// an H100, or one for 32 tokens on consumer GPUs.
LANNER_BOTH constexpr int planes_bytes(int most_tokens) { return (most_tokens <= 8 ? 14 : 36) * 1024; }

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

template <WeightType type, bool kNorm, int kMostTokens>
class Planes {
 public:
  static constexpr int kUnitCodes = 2 * kUnitK, kUnitFactors = 2 * sizeof(Float2);

  LANNER_DEVICE Planes(std::byte* shared, int n_tokens, int n_units, int n_splits)
      : shared_(shared), n_tokens_(n_tokens), most_units_(most_units(n_tokens, n_units, n_splits)) {
    factors_ = n_tokens * token_bytes();
    squares_ = factors_ + n_tokens * factor_bytes();
  }

  // A stretch of k, but the last.
  LANNER_DEVICE int most_units() const { return most_units_; }

  // Units first .. first + n_units of all tokens, by all threads of the block.
  LANNER_DEVICE void fill(const LinearArgs& args, int first, int n_units) {
    const int octets = n_units * (kUnitK / 8), total = n_tokens_ * octets;
    LANNER_ROLLED
    for (int i = thread_index(); i - lane_index() < total; i += block_threads()) {
      // Lanes past the end do what the last one does, but store nothing.
      const int at = i < total ? i : total - 1, token = at / octets, octet = at % octets;
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
      store16(shared_ + token * token_bytes() + octet * 16, planes_of<type>(x, inverse));
      if (octet % 4 != 0) continue;
      const int group = octet / 4;
      reinterpret_cast<Float2*>(shared_ + factors_ + token * factor_bytes())[group] = {scale, sum};
      if constexpr (kNorm) squares_of(token)[group] = squares;
    }
  }

  // Adds the squares of units first .. first + n_units of the tokens that are this warp's, warp + 8 t: a lane
  // takes every 32nd group of k, so that the order does not depend on the stretches.
  template <int kOwn>
  LANNER_DEVICE void add_squares(float (&sums)[kOwn], int warp, int first, int n_units) const {
    LANNER_UNROLL for (int t = 0; t < kOwn; ++t) {
      if (warp + 8 * t >= n_tokens_) break;
      LANNER_ROLLED
      for (int i = (lane_index() - 2 * first) & 31; i < 2 * n_units; i += kWarpSize)
        sums[t] += squares_of(warp + 8 * t)[i];
    }
  }

  // Where a token's codes begin, kUnitCodes for each unit, and its factors, kUnitFactors. Tokens that there
  // are not are the last one: columns do not see each other, and nobody asks for these.
  LANNER_DEVICE const std::byte* codes(int token) const {
    return shared_ + (token < n_tokens_ ? token : n_tokens_ - 1) * token_bytes();
  }
  LANNER_DEVICE const std::byte* factors(int token) const {
    return shared_ + factors_ + (token < n_tokens_ ? token : n_tokens_ - 1) * factor_bytes();
  }

 private:
  // As many as fit, and as many for each warp that shares a tile.
  static LANNER_DEVICE int most_units(int n_tokens, int n_units, int n_splits) {
    constexpr int kUnitBytes = kUnitCodes + kUnitFactors + 2 * sizeof(float);
    const int fit = (planes_bytes(kMostTokens) / n_tokens - 64 - 8) / kUnitBytes;
    const int even = fit >= n_splits ? fit / n_splits * n_splits : fit;
    return even < n_units ? even : n_units;
  }
  LANNER_DEVICE int token_bytes() const { return most_units_ * kUnitCodes + 64; }
  LANNER_DEVICE int factor_bytes() const { return most_units_ * kUnitFactors + 8; }
  LANNER_DEVICE float* squares_of(int token) const {
    return reinterpret_cast<float*>(shared_ + squares_) + token * 2 * most_units_;
  }

  static LANNER_DEVICE float of_group(float x) {
    x += shuffle_xor(x, 1);
    return x + shuffle_xor(x, 2);
  }
  // Of the group. Sizes are compared as integers, for which NaN is above them all; what is too small for a
  // reciprocal is zero.
  static LANNER_DEVICE float scale_of(const float (&x)[8]) {
    uint32_t most = 0;
    const auto take = [&most](uint32_t size) { most = size > most ? size : most; };
    LANNER_UNROLL for (int e = 0; e < 8; ++e) take(bits_of(x[e]) & 0x7fffffffu);
    take(shuffle_xor(most, 1));
    take(shuffle_xor(most, 2));
    return most < bits_of(0x1p-100f) ? 0.0f : float_of(most) * (1.0f / 127.0f);
  }

  std::byte* shared_;
  int n_tokens_, most_units_, factors_, squares_;
};

}  // namespace lanner::cuda
