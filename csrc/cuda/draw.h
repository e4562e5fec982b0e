// What tokens weigh when one is drawn, and how sums of weights are searched: parts of sample.
//
// The weight of a logit is exp((x - highest) / temperature) in steps of 2^-40, as an integer.
#pragma once

#include "cuda/sample.h"

namespace lanner::cuda {

struct Settings {
  float temperature, top_k, top_p, min_p, typical_p, uniform;
  float inverse;  // weights are powers of two: log2(e) / temperature
  bool is_greedy;

  LANNER_DEVICE static Settings of(const float* s) {
    const float inverse = kLog2E / s[0];
    return {s[0], s[1], s[2], s[3], s[4], s[5], inverse, !(s[0] > 0 && inverse <= -kLowest)};
  }
  LANNER_DEVICE bool cuts() const { return top_k > 0 || top_p < 1 || min_p > 0 || typical_p < 1; }
};

// Offset of a logit: how often its weight is halved. NaN where the logit is, or is -inf at temperature inf.
struct Scale {
  float highest, inverse;
  LANNER_DEVICE float offset(float x) const { return (highest - x) * inverse; }
};

inline constexpr int kWeightBits = 40;

// Of 0 to 1 in steps of 2^-40.
LANNER_DEVICE uint64_t fixed(float w) {
  const uint32_t bits = bits_of(w), exponent = bits >> 23, shift = exponent < 127 ? 127 - exponent : 0;
  const uint64_t significand = (bits & 0x7fffffu) | 0x800000u;
  return shift < 64 ? (significand << (kWeightBits - 23)) >> shift : 0;
}
// 0 for NaN, too.
LANNER_DEVICE uint64_t weight_at(float offset) {
  return offset < kSampleHalvings ? fixed(exp2_approx(-offset)) : 0;
}
LANNER_DEVICE int bin_at(float offset) { return static_cast<int>(offset * kSampleBinsPerHalving); }

// Larger keys are larger logits; of equal ones the lower id.
LANNER_DEVICE uint64_t key_of(float x, int id) {
  const uint32_t bits = bits_of(x + 0.0f);  // -0 becomes 0
  const uint32_t ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | ~static_cast<uint32_t>(id);
}

// What the stages have left.
struct Survivors {
  Scale scale;
  uint64_t floor = 0;          // least key
  uint64_t least = 1;          // weight
  float center = 0;            // offsets nearer to it than
  uint32_t far = 0xffffffffu;  // these bits of a distance, or as near

  LANNER_DEVICE uint32_t distance_bits(float offset) const {
    return bits_of(offset < center ? center - offset : offset - center);
  }
  LANNER_DEVICE uint64_t weight(float x, int id) const {
    const float offset = scale.offset(x);
    const uint64_t w = weight_at(offset);
    return w < least || key_of(x, id) < floor || distance_bits(offset) > far ? 0 : w;
  }
};

// --- 64 bits over a warp ----------------------------------------------------------------------------------
LANNER_DEVICE uint64_t joined(uint32_t low, uint32_t high) { return static_cast<uint64_t>(high) << 32 | low; }
LANNER_DEVICE uint64_t shuffle_wide(uint64_t x, int from_lane) {
  const uint32_t low = shuffle(static_cast<uint32_t>(x), from_lane);
  return joined(low, shuffle(static_cast<uint32_t>(x >> 32), from_lane));
}
LANNER_DEVICE uint64_t shuffle_xor_wide(uint64_t x, int mask) {
  const uint32_t low = shuffle_xor(static_cast<uint32_t>(x), mask);
  return joined(low, shuffle_xor(static_cast<uint32_t>(x >> 32), mask));
}
LANNER_DEVICE uint64_t warp_sum_wide(uint64_t x) {
  LANNER_UNROLL
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) x += shuffle_xor_wide(x, mask);
  return x;
}
LANNER_DEVICE double warp_sum_double(double x) {
  LANNER_UNROLL
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2)
    x += __builtin_bit_cast(double, shuffle_xor_wide(__builtin_bit_cast(uint64_t, x), mask));
  return x;
}
// Sum of this and all lower lanes.
LANNER_DEVICE uint64_t warp_scan(uint64_t x) {
  LANNER_UNROLL
  for (int n = 1; n < kWarpSize; n *= 2) {
    const uint32_t low = shuffle_up(static_cast<uint32_t>(x), n);
    const uint64_t other = joined(low, shuffle_up(static_cast<uint32_t>(x >> 32), n));
    if (lane_index() >= n) x += other;
  }
  return x;
}
// Two words that others add to as well: the carry goes where the sum of the lower ones passes 2^32.
LANNER_DEVICE void atomic_add_wide(int32_t* low, int32_t* high, uint64_t x) {
  const auto added = static_cast<uint32_t>(x);
  const auto before = static_cast<uint32_t>(atomic_add(low, static_cast<int32_t>(added)));
  const uint32_t upper = static_cast<uint32_t>(x >> 32) + (before + added < before ? 1u : 0u);
  if (upper) atomic_add(high, static_cast<int32_t>(upper));
}

struct Place {
  int index;
  uint64_t before;  // the sum of what is ahead of it
};

// By a warp: the first index at which the sum of value(0) .. value(index) reaches the target, which all n do.
template <class Value>
LANNER_DEVICE Place find_place(int n, uint64_t target, Value value) {
  const int per_lane = ceil_div(n, kWarpSize), begin = lane_index() * per_lane;
  const int end = begin + per_lane < n ? begin + per_lane : n;
  uint64_t own = 0;
  for (int i = begin; i < end; ++i) own += value(i);
  const uint64_t upto = warp_scan(own);
  Place place{n - 1, upto - own};
  const bool is_here = place.before < target && target <= upto;
  if (is_here) {
    for (int i = begin; i < end; ++i) {
      const uint64_t each = value(i);
      place.index = i;
      if (place.before + each >= target) break;
      place.before += each;
    }
  }
  const uint32_t who = ballot(is_here);
  const int lane = who ? __builtin_popcount((who & -who) - 1) : kWarpSize - 1;
  place.index = static_cast<int>(shuffle(static_cast<uint32_t>(place.index), lane));
  place.before = shuffle_wide(place.before, lane);
  return place;
}

}  // namespace lanner::cuda
