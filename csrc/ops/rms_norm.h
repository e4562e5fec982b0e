// out[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i]   (Zhang and Sennrich, 2019)
#pragma once

#include "ops/op.h"

namespace lanner {

struct RmsNormArgs {
  Rows<float> x;         // (T or R, K)
  Vector<float> weight;  // (K)
  Rows<float> out;       // (T or R, K)
  float eps;
};

inline void check(const RmsNormArgs& a) {
  check(a.weight.size == a.x.cols, "rms_norm: weight has ", a.weight.size, " elements, x has ", a.x.cols,
        " columns");
  check_kind("rms_norm", "out", a.out, a.x.kind);
  check_cols("rms_norm", "out", a.out, a.x.cols);
  check(a.eps >= 0, "rms_norm: eps is ", a.eps, ", wanted a number that is not negative");
}
inline int units(const RmsNormArgs& a, const Step& step) { return step.rows(a.x.kind); }
inline Cost cost(const RmsNormArgs& a, const Step& step) {
  const double n = static_cast<double>(units(a, step)) * a.x.cols;
  return {8 * n + 4.0 * a.x.cols, 4 * n};
}

}  // namespace lanner
