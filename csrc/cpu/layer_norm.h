// out = (x - mean) / sqrt(variance + eps) * weight + bias, a row at a time.
#pragma once

#include <cmath>

#include "ops/array_rows.h"
#include "ops/layer_norm.h"
#include "simd/tail.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// Elements summed in float32 before the sum moves to float64: 16 additions per lane, whatever the row.
inline constexpr int kSumBlock = 256;

// Sum of term(x - shift) over a row. Lanes past the end hold no term.
template <class Term>
inline double sum_terms(const float* x, int64_t n, float shift, Term term) {
  const F32 s = set1(shift);
  double sum = 0;
  for (int64_t first = 0; first < n; first += kSumBlock) {
    const int left = static_cast<int>(n - first < kSumBlock ? n - first : kSumBlock);
    const float* p = x + first;
    F32 block = zero();
    int i = 0;
    for (; i + 16 <= left; i += 16) block = term(load(p + i) - s, block);
    if (i < left) block = term(keep_first(load_n(p + i, left - i) - s, left - i, zero()), block);
    sum += hsum(block);
  }
  return sum;
}

inline void layer_norm_row_wide(const NormRows& a, const float* x, float* out) {
  double mean = 0, squares = 0;
  for (int64_t i = 0; i < a.n; ++i) mean += x[i];
  mean /= static_cast<double>(a.n);
  for (int64_t i = 0; i < a.n; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const double scale = 1 / std::sqrt(squares / static_cast<double>(a.n) + a.eps);
  for (int64_t i = 0; i < a.n; ++i)
    out[i] = static_cast<float>((x[i] - mean) * scale * (a.weight ? a.weight[i] : 1.0f) +
                                (a.bias ? a.bias[i] : 0.0f));
}

// Everything is taken around the rounded mean; what is left of the mean, `rest`, corrects the variance and
// the result. Where it is not small beside the deviation, float32 cannot hold the row and float64 takes over.
inline void layer_norm_row(const NormRows& a, const float* x, float* out) {
  const double n = static_cast<double>(a.n);
  const float first = static_cast<float>(sum_terms(x, a.n, 0, [](F32 v, F32 sum) { return sum + v; }) / n);
  const double rest = sum_terms(x, a.n, first, [](F32 v, F32 sum) { return sum + v; }) / n;
  const double squares = sum_terms(x, a.n, first, [](F32 v, F32 sum) { return fma(v, v, sum); }) / n;
  const double variance = squares - rest * rest + a.eps;
  if (!(variance >= 0x1p-100 && variance <= __FLT_MAX__ && variance > 0.25 * squares))
    return layer_norm_row_wide(a, x, out);
  const double inverse = 1 / std::sqrt(variance);
  const F32 shift = set1(first), scale = set1(static_cast<float>(inverse)),
            moved = set1(static_cast<float>(-rest * inverse));
  auto value = [&](int64_t i, int lanes) {
    auto at = [=](const float* p) { return lanes == 16 ? load(p + i) : load_n(p + i, lanes); };
    F32 y = fma(at(x) - shift, scale, moved);
    if (a.weight) y = y * at(a.weight);
    return a.bias ? y + at(a.bias) : y;
  };
  int64_t i = 0;
  for (; i + 16 <= a.n; i += 16) store(out + i, value(i, 16));
  if (i < a.n) store_n(out + i, static_cast<int>(a.n - i), value(i, static_cast<int>(a.n - i)));
}

void layer_norm_rows(const NormRows& a, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) layer_norm_row(a, a.x + r * a.n, a.out + r * a.n);
}

void layer_norm(const LayerNormArgs& a, const Step&, const Worker& worker, int begin, int end) {
  const NormRows norm{nullptr, a.weight.data, a.bias.data, nullptr, a.x.cols, a.eps};
  for (int t = begin; t < end; ++t) layer_norm_row(norm, a.x.row(worker, t), a.out.row(worker, t));
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
