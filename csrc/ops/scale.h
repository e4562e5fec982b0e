// out = factor * x
#pragma once

#include "ops/op.h"

namespace lanner {

struct ScaleArgs {
  Rows<float> x;    // (T or R, K)
  Rows<float> out;  // like x
  float factor;
};

inline void check(const ScaleArgs& a) {
  check_kind("scale", "out", a.out, a.x.kind);
  check_cols("scale", "out", a.out, a.x.cols);
  check_finite("scale", "factor", a.factor);
}
inline int units(const ScaleArgs& a, const Step& step) { return step.rows(a.x.kind); }
inline Cost cost(const ScaleArgs& a, const Step& step) {
  const double n = static_cast<double>(units(a, step)) * a.x.cols;
  return {8 * n, n};
}

}  // namespace lanner
