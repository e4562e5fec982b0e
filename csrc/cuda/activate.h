// out = function(x), or of gate and up, which stand in x side by side, function(gate) * up (SwiGLU, GeGLU).
#pragma once

#include "cuda/activations.h"
#include "cuda/elementwise.h"

namespace lanner::cuda {

struct ActivateArgs {
  const bf16* x;        // (rows, cols), or (rows, 2 cols): `block` columns of gate, as many of up, and so on
  bf16* out;            // (rows, cols); without a block it may be x
  Activation function;  // by its number
  int32_t cols;         // of out
  int32_t block;        // 0: x is not gated; cols: all of gate, then all of up
  RowCount rows;

  template <class F>
  void each_field(F&& field) {
    field("x", x), field("out", out), field("function", function), field("cols", cols);
    field("block", block), field("rows", rows);
  }
};

inline void check(const ActivateArgs& args) {
  check_activation("activate", args.function);
  check_element_cols("activate", args.cols);
  check(args.block >= 0 && args.block % 8 == 0 && (args.block == 0 || args.cols % args.block == 0),
        "activate: block is ", args.block, ", wanted 0 or a multiple of 8 that divides ", args.cols);
}
void activate(const ActivateArgs& args, const Bounds& bounds);

}  // namespace lanner::cuda
