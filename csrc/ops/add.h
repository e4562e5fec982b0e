// out = x + factor * y
#pragma once

#include "ops/op.h"

namespace lanner {

struct AddArgs {
  Rows<float> x;    // (T or R, K)
  Rows<float> y;    // like x
  Rows<float> out;  // like x
  float factor;
};

inline void check(const AddArgs& a) {
  for (const auto& [name, rows] : {std::pair{"y", &a.y}, std::pair{"out", &a.out}}) {
    check_kind("add", name, *rows, a.x.kind);
    check_cols("add", name, *rows, a.x.cols);
  }
  check_finite("add", "factor", a.factor);
}
inline int units(const AddArgs& a, const Step& step) { return step.rows(a.x.kind); }
inline Cost cost(const AddArgs& a, const Step& step) {
  const double n = static_cast<double>(units(a, step)) * a.x.cols;
  return {12 * n, 2 * n};
}

}  // namespace lanner
