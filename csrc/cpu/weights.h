// What logits weigh when a token is drawn, and the sums of these weights.
#pragma once

#include "cpu/border.h"
#include "simd/math.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// A row, or what was taken out of one: ids ascend, null where an element's index is its id.
struct Candidates {
  const float* x;
  const int32_t* ids;
  int n;
  int id(int i) const { return ids ? ids[i] : i; }
};

// Forbidden ids (-inf, NaN) and logits hopelessly far down weigh this, which no sum notices: to make it 0
// would cost every weight two instructions. A draw looks only at what weighs more.
inline constexpr float kNothing = 0x1p-126f;

// exp((x - highest) / temperature) as a power of two.
struct Weights {
  float highest, inverse;  // log2(e) / temperature
  F32 offset(F32 x) const { return max((x - set1(highest)) * set1(inverse), set1(-126)); }
  F32 operator()(F32 x) const { return exp2_of_nonpositive(offset(x)); }
  F32 nearness(F32 x, float center) const { return zero() - abs(offset(x) - set1(center)); }
};

// Weights of what a stage has left: 0 for logits below `floor`, for weights below `least`, and for logits
// whose offset is farther than `reach` from `center`.
struct Survivors : Weights {
  float floor = -__builtin_inff(), least = 0, center = 0, reach = __builtin_inff();

  F32 operator()(F32 x) const {
    F32 w = Weights::operator()(x);
    w = zero_below(zero_below(w, x, floor), w, least);
    return reach < __builtin_inff() ? zero_below(w, nearness(x, center), -reach) : w;
  }
};

template <class W>
inline float weight_of(const W& weights, float x) {
  float w[16];
  store(w, weights(set1(x)));
  return w[0];
}

// NaN has the lowest key. The three orders in which survivors are counted off, and whether none of the first
// outweighs many of them.
struct ByCount {
  static constexpr bool kStartsEvenly = true;
  F32 key(F32 x) const { return max(x, set1(-__builtin_inff())); }
  F32 weight(F32 x) const { return keep_lanes(set1(1), at_least(x, -__builtin_inff()), zero()); }
};
template <class W>
struct ByMass {
  static constexpr bool kStartsEvenly = false;
  W weights;
  F32 key(F32 x) const { return max(x, set1(-__builtin_inff())); }
  F32 weight(F32 x) const { return weights(x); }
};
template <class W>
struct ByNearness {
  static constexpr bool kStartsEvenly = true;
  W weights;
  float center;
  F32 key(F32 x) const { return weights.nearness(x, center); }
  F32 weight(F32 x) const { return weights(x); }
};

// Mass, and mass times offset: their quotient is the mean offset, which is log-sum minus entropy.
struct Moments {
  double mass = 0, moment = 0;
};

template <bool with_moment, class W>
inline void add_weighted(const W weights, const float* x, int n, Moments& to) {
  F32 mass[2] = {zero(), zero()}, moment[2] = {zero(), zero()};
  const auto add = [&](F32 v, int k) {
    const F32 w = weights(v);
    mass[k] = mass[k] + w;
    if constexpr (with_moment) moment[k] = fma(w, weights.offset(v), moment[k]);
  };
  int i = 0;
  for (; i + 32 <= n; i += 32) add(load(x + i), 0), add(load(x + i + 16), 1);
  for (; i < n; i += 16) add(load_or_lowest(x + i, n - i), 0);
  to.mass += hsum(mass[0] + mass[1]);
  if constexpr (with_moment) to.moment += hsum(moment[0] + moment[1]);
}

template <class W>
inline Moments moments_of(const W& weights, const Candidates& c) {
  Moments all;
  for (int begin = 0; begin < c.n; begin += kStretch)
    add_weighted<true>(weights, c.x + begin, c.n - begin < kStretch ? c.n - begin : kStretch, all);
  return all;
}

// 1024 elements of a row; the weights in its sums are relative to its own highest.
struct Stretch {
  float highest;
  Moments sums;
};

inline int n_stretches(int n) { return (n + kStretch - 1) / kStretch; }

// The largest in every lane of every stretch: maxima (n_stretches * 16). Each is an element of the row.
inline float scan_stretch(const float* x, int n, float* maxima) {
  const F32 lowest = set1(-__builtin_inff());
  F32 best[4] = {lowest, lowest, lowest, lowest};
  int i = 0;
  for (; i + 64 <= n; i += 64)
    for (int k = 0; k < 4; ++k) best[k] = max(load(x + i + 16 * k), best[k]);
  for (; i < n; i += 16) best[0] = max(load_or_lowest(x + i, n - i), best[0]);
  best[0] = max(max(best[0], best[1]), max(best[2], best[3]));
  store(maxima, best[0]);
  return hmax(best[0]);
}

enum class Sums { kNone, kMass, kMoments };

// Reads a row once: each stretch for its largest element and, while it is in L1, for its sums.
template <Sums wanted>
void scan(const float* x, int n, float inverse, Stretch* stretches, float* maxima) {
  for (int s = 0; s < n_stretches(n); ++s) {
    const float* from = x + s * kStretch;
    const int size = n - s * kStretch < kStretch ? n - s * kStretch : kStretch;
    stretches[s] = {scan_stretch(from, size, maxima + 16 * s), {}};
    if (wanted == Sums::kNone || !(stretches[s].highest > -__builtin_inff())) continue;
    add_weighted<wanted == Sums::kMoments>(Weights{stretches[s].highest, inverse}, from, size,
                                           stretches[s].sums);
  }
}

// The sums of all stretches, relative to the highest of all.
inline double scale_of(const Stretch& s, const Weights& weights) {
  return ::exp2(static_cast<double>(s.highest - weights.highest) * weights.inverse);
}
inline Moments merge(const Stretch* stretches, int n, const Weights& weights) {
  Moments all;
  for (int s = 0; s < n; ++s) {
    if (!(stretches[s].sums.mass > 0)) continue;
    const double offset = static_cast<double>(stretches[s].highest - weights.highest) * weights.inverse;
    const double scale = ::exp2(offset);
    all.mass += scale * stretches[s].sums.mass;
    all.moment += scale * (stretches[s].sums.moment + offset * stretches[s].sums.mass);
  }
  return all;
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
