// out = x / sqrt(mean(x^2) + eps) * weight, a row at a time.
#pragma once

#include <cmath>

#include "ops/array_rows.h"
#include "simd/tail.h"

namespace lanner::LANNER_ISA_NS {
namespace {

inline float sum_of_squares(const float* x, int64_t n) {
  F32 squares = zero();
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) squares = fma(load(x + i), load(x + i), squares);
  if (i < n) {
    const F32 v = load_n(x + i, static_cast<int>(n - i));
    squares = fma(v, v, squares);
  }
  return hsum(squares);
}

// Squares of float32 neither overflow nor vanish in float64: for the rare row whose mean square leaves the
// range in which float32 keeps its precision.
inline void rms_norm_row_wide(const float* x, const float* weight, float* out, int64_t n, float eps) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * x[i];
  const double scale = 1 / std::sqrt(squares / static_cast<double>(n) + eps);
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(x[i] * scale * (weight ? weight[i] : 1.0f));
}

// A weight of null is 1.
inline void rms_norm_row(const float* x, const float* weight, float* out, int64_t n, float eps) {
  const float mean = sum_of_squares(x, n) / static_cast<float>(n) + eps;
  if (!(mean >= 0x1p-100f && mean <= __FLT_MAX__)) return rms_norm_row_wide(x, weight, out, n, eps);
  const F32 scale = set1(1.0f / std::sqrt(mean));
  int64_t i = 0;
  if (weight)
    for (; i + 16 <= n; i += 16) store(out + i, load(x + i) * scale * load(weight + i));
  else
    for (; i + 16 <= n; i += 16) store(out + i, load(x + i) * scale);
  if (i == n) return;
  const int left = static_cast<int>(n - i);
  const F32 y = load_n(x + i, left) * scale;
  store_n(out + i, left, weight ? y * load_n(weight + i, left) : y);
}

void rms_norm_rows(const NormRows& a, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) rms_norm_row(a.x + r * a.n, a.weight, a.out + r * a.n, a.n, a.eps);
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
