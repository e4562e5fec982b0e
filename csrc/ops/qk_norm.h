// x = x / sqrt(mean(x^2) + eps) * weight over all query columns of a row of qkv together, and over all its
// key columns, in place. Values are left as they are.
#pragma once

#include "ops/op.h"

namespace lanner {

struct QkNormArgs {
  Rows<float> qkv;         // (T, (H + 2 KH) D): query heads, key heads, value heads
  Vector<float> q_weight;  // (H D)
  Vector<float> k_weight;  // (KH D)
  float eps;
};

inline void check(const QkNormArgs& a) {
  check(a.q_weight.size > 0 && a.k_weight.size > 0, "qk_norm: q_weight and k_weight have ", a.q_weight.size,
        " and ", a.k_weight.size, " elements, wanted at least 1 each");
  check_kind("qk_norm", "qkv", a.qkv, RowKind::kTokens);
  check_cols("qk_norm", "qkv", a.qkv, a.q_weight.size + 2 * a.k_weight.size);
  check(a.eps >= 0, "qk_norm: eps is ", a.eps, ", wanted a number that is not negative");
}
inline int units(const QkNormArgs&, const Step& step) { return step.n_tokens; }
inline Cost cost(const QkNormArgs& a, const Step& step) {
  const double n =
      static_cast<double>(step.n_tokens) * static_cast<double>(a.q_weight.size + a.k_weight.size);
  return {8 * n, 4 * n};
}

}  // namespace lanner
