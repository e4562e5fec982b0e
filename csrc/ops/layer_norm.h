// out[i] = (x[i] - mean(x)) / sqrt(variance(x) + eps) * weight[i] + bias[i]   (Ba et al., 2016)
#pragma once

#include "ops/op.h"

namespace lanner {

struct LayerNormArgs {
  Rows<float> x;         // (T or R, K)
  Vector<float> weight;  // (K)
  Vector<float> bias;    // (K), or absent
  Rows<float> out;       // (T or R, K)
  float eps;
};

inline void check(const LayerNormArgs& a) {
  check(a.weight.size == a.x.cols, "layer_norm: weight has ", a.weight.size, " elements, x has ", a.x.cols,
        " columns");
  check(!a.bias.data || a.bias.size == a.x.cols, "layer_norm: bias has ", a.bias.size, " elements, x has ",
        a.x.cols, " columns");
  check_kind("layer_norm", "out", a.out, a.x.kind);
  check_cols("layer_norm", "out", a.out, a.x.cols);
  check(a.eps >= 0, "layer_norm: eps is ", a.eps, ", wanted a number that is not negative");
}
inline int units(const LayerNormArgs& a, const Step& step) { return step.rows(a.x.kind); }
inline Cost cost(const LayerNormArgs& a, const Step& step) {
  const double n = static_cast<double>(units(a, step)) * a.x.cols;
  return {8 * n + 8.0 * a.x.cols, 8 * n};
}

}  // namespace lanner
