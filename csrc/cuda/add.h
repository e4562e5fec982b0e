// out[t] = a[t] + b[t], rounded to bf16.
#pragma once

#include "cuda/op.h"

namespace lanner::cuda {

struct AddArgs {
  const bf16* a;  // (rows, cols)
  const bf16* b;  // (rows, cols)
  bf16* out;      // (rows, cols), may be a or b
  int32_t cols;
  RowCount rows;

  template <class F>
  void each_field(F&& field) {
    field("a", a), field("b", b), field("out", out), field("cols", cols), field("rows", rows);
  }
};

inline void check(const AddArgs& args) { check_multiple("add", "cols", args.cols, 8); }
void add(const AddArgs& args, const Bounds& bounds);

}  // namespace lanner::cuda
