// out = factor * x
#pragma once

#include "cuda/elementwise.h"

namespace lanner::cuda {

struct ScaleArgs {
  const void* x;  // (rows, cols)
  void* out;      // (rows, cols), may be x
  ValueType type;
  int32_t cols;
  float factor;
  RowCount rows;

  template <class F>
  void each_field(F&& field) {
    field("x", x), field("out", out), field("type", type), field("cols", cols), field("factor", factor);
    field("rows", rows);
  }
};

inline void check(const ScaleArgs& args) {
  check_value_type("scale", args.type);
  check_element_cols("scale", args.cols, args.type);
  check_finite("scale", "factor", args.factor);
}
void scale(const ScaleArgs& args, const Bounds& bounds);

}  // namespace lanner::cuda
