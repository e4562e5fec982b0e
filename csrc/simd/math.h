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

inline float exp1(float x) {
  float out[16];
  store(out, exp(set1(x)));
  return out[0];
}

inline F32 silu(F32 x) { return x / (set1(1.0f) + exp(zero() - x)); }

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
