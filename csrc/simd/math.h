// Elementary functions on 16 lanes, from the operations of vec.h alone.
#pragma once

#include "simd/vec.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// exp(x) = 2^n exp(r), n = round(x log2 e), |r| <= ln(2)/2, with ln 2 in two parts so that r is exact to the
// last bit (Cody and Waite). The Taylor polynomial of degree 7 is off by (ln(2)/2)^8 / 8! = 5e-9, a twelfth
// of half an ulp. Below -87, where the result would leave the normal numbers, it is 0; above 88 it is
// exp(88). NaN stays NaN.
inline F32 exp(F32 x) {
  const F32 bounded = min(set1(88.0f), max(set1(-87.0f), x));  // the second argument where it is NaN
  const I32 n = round_i32(bounded * set1(1.44269504f));
  const F32 whole = to_f32(n);
  F32 r = fma(whole, set1(-0.693359375f), bounded);
  r = fma(whole, set1(2.12194440e-4f), r);
  F32 p = set1(1.0f / 5040);
  p = fma(p, r, set1(1.0f / 720));
  p = fma(p, r, set1(1.0f / 120));
  p = fma(p, r, set1(1.0f / 24));
  p = fma(p, r, set1(1.0f / 6));
  p = fma(p, r, set1(0.5f));
  p = fma(p, r, set1(1.0f));
  p = fma(p, r, set1(1.0f));
  return zero_below(scale_by_pow2(p, n), x, -87.0f);
}

// 2^f for |f| <= 1/2: the polynomial of degree 5 with p(0) = 1 that is nearest (within 1.1e-7, 1.8
// roundings).
inline constexpr float kPow2First = 0.00132647273f;
inline constexpr float kPow2[] = {0.00967151299f, 0.0555073358f, 0.240222424f, 0.693147004f, 1.0f};

// exp(x) for x <= 0, at two thirds of the instructions: 2^(n + f), n = round(x log2 e), |f| <= 1/2, and that
// polynomial. Off by less than (4 + 1.5 |x|) 2^-24 of itself: x log2 e is off by 1.35e-8 of itself through
// the constant, and by one rounding where there is no fused multiply-add. Below -87 it is 0; NaN stays NaN;
// exp(0) is 1.
//
// n vectors go through each step together: one alone waits for the latency of every step.
template <int n>
inline __attribute__((always_inline)) void exp_of_nonpositive(F32 (&x)[n]) {
  const F32 log2_e = set1(1.44269504f);
  F32 whole[n], f[n], p[n];
  for (int i = 0; i < n; ++i) whole[i] = round_f32(x[i] * log2_e);
  for (int i = 0; i < n; ++i) f[i] = fms(x[i], log2_e, whole[i]);
  for (int i = 0; i < n; ++i) p[i] = set1(kPow2First);
  for (float c : kPow2)
    for (int i = 0; i < n; ++i) p[i] = fma(p[i], f[i], set1(c));
  for (int i = 0; i < n; ++i) x[i] = zero_below(times_pow2(p[i], whole[i]), x[i], -87.0f);
}
inline F32 exp_of_nonpositive(F32 x) {
  F32 one[] = {x};
  exp_of_nonpositive(one);
  return one[0];
}

// 2^x for -126 <= x <= 0 by the same polynomial, off by less than 4 * 2^-24 of itself.
inline F32 exp2_of_nonpositive(F32 x) {
  const F32 whole = round_f32(x), f = x - whole;
  F32 p = set1(kPow2First);
  for (float c : kPow2) p = fma(p, f, set1(c));
  return times_pow2(p, whole);
}

// Below 0.625 an odd polynomial, fitted here to 5e-9 of relative error; beyond it 1 - 2 / (exp(2x) + 1),
// where the difference no longer cancels. Within 3 ulp. NaN stays NaN.
inline F32 tanh(F32 x) {
  const F32 size = abs(x), near_zero = min(set1(0.625f), max(set1(-0.625f), x)), z = near_zero * near_zero;
  F32 p = set1(-0.00564831262f);
  p = fma(p, z, set1(0.0205898229f));
  p = fma(p, z, set1(-0.0537251271f));
  p = fma(p, z, set1(0.133312747f));
  p = fma(p, z, set1(-0.333332747f));
  const F32 small = fma(p * z, near_zero, near_zero);
  const F32 large = set1(1.0f) - set1(2.0f) / (exp(x + x) + set1(1.0f));
  return zero_below(large, size, 0.625f) + (small - zero_below(small, size, 0.625f));
}

// x / (1 + exp(-x)); 0 below -87, where the bounded exponential would leave x / e^88.
inline F32 silu(F32 x) { return zero_below(x / (set1(1.0f) + exp(zero() - x)), x, -87.0f); }

// Phi(x), the normal distribution function. With z = |x| / sqrt(2) and t = 1 / (1 + z/2),
// erfc(z) = t exp(-z^2 + P(t)) is smooth enough for a P of degree 9 (the form of Numerical Recipes, 6.2;
// coefficients fitted at 400 Chebyshev nodes over 0 <= z <= 9.6, off by 4.6e-8). Relative to
// Phi(-|x|): x^2/2 and its difference with P are rounded to 2^-24 of themselves, P, t and exp add less than
// 16 roundings, so the error is below (x^2 + 16) 2^-24. NaN stays NaN.
inline F32 normal_cdf(F32 x) {
  const F32 z2 = set1(0.5f) * x * x;
  const F32 t = set1(1.0f) / fma(set1(0.353553391f), abs(x), set1(1.0f));
  F32 p = set1(0.141441133f);
  p = fma(p, t, set1(-0.661739704f));
  p = fma(p, t, set1(1.11159449f));
  p = fma(p, t, set1(-0.635849498f));
  p = fma(p, t, set1(-0.130533078f));
  p = fma(p, t, set1(0.0281382692f));
  p = fma(p, t, set1(0.025399053f));
  p = fma(p, t, set1(0.388581175f));
  p = fma(p, t, set1(0.998404877f));
  p = fma(p, t, set1(-1.26543667f));
  const F32 tail = set1(0.5f) * t * exp(p - z2);  // Phi(-|x|)
  return zero_below(set1(1.0f) - (tail + tail), x, 0.0f) + tail;
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
