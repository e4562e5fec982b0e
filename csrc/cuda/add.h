// out[t] = a[t] + factor * b[t], rounded to bf16.
#pragma once

#include "cuda/elementwise.h"

namespace lanner::cuda {

struct AddArgs {
  const bf16* a;  // (rows, cols)
  const bf16* b;  // (rows, cols)
  bf16* out;      // (rows, cols), may be a or b
  int32_t cols;
  RowCount rows;
  float factor = 1;

  template <class F>
  void each_field(F&& field) {
    field("a", a), field("b", b), field("out", out), field("cols", cols), field("rows", rows);
    field("factor", factor);
  }
};

inline void check(const AddArgs& args) {
  check_element_cols("add", args.cols);
  check_finite("add", "factor", args.factor);
}
void add(const AddArgs& args, const Bounds& bounds);

}  // namespace lanner::cuda
