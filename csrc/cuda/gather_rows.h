// out[r] = x[output_rows[r]]: only rows that want logits go through the head.
#pragma once

#include "cuda/elementwise.h"

namespace lanner::cuda {

struct GatherRowsArgs {
  const bf16* x;               // (T, cols)
  const int32_t* output_rows;  // (rows)
  bf16* out;                   // (rows, cols)
  int32_t cols;
  RowCount rows;

  template <class F>
  void each_field(F&& field) {
    field("x", x), field("output_rows", output_rows), field("out", out), field("cols", cols);
    field("rows", rows);
  }
};

inline void check(const GatherRowsArgs& args) {
  check_present("gather_rows", "x", args.x), check_present("gather_rows", "out", args.out);
  check_present("gather_rows", "output_rows", args.output_rows);
  check_element_cols("gather_rows", args.cols);
}
void gather_rows(const GatherRowsArgs& args, const Bounds& bounds);

}  // namespace lanner::cuda
