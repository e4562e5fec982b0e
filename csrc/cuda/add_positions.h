// out[t] = x[t] + table[positions[t] + offset]: learned positions
#pragma once

#include "cuda/elementwise.h"

namespace lanner::cuda {

struct AddPositionsArgs {
  const bf16* x;             // (rows, cols)
  const float* table;        // (P, cols)
  const int32_t* positions;  // (rows)
  bf16* out;                 // (rows, cols), may be x
  int32_t cols;
  int32_t offset;  // rows of the table before that of position 0
  RowCount rows;

  template <class F>
  void each_field(F&& field) {
    field("x", x), field("table", table), field("positions", positions), field("out", out);
    field("cols", cols), field("offset", offset), field("rows", rows);
  }
};

inline void check(const AddPositionsArgs& args) {
  check_present("add_positions", "x", args.x), check_present("add_positions", "table", args.table);
  check_present("add_positions", "positions", args.positions);
  check_present("add_positions", "out", args.out);
  check_element_cols("add_positions", args.cols);
  check(args.offset >= 0, "add_positions: offset is ", args.offset, ", wanted at least 0");
}
void add_positions(const AddPositionsArgs& args, const Bounds& bounds);

}  // namespace lanner::cuda
