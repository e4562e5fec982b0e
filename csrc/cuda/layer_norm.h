// out[t][i] = (x[t][i] - mean(x[t])) / sqrt(variance(x[t]) + eps) * weight[i] + bias[i]
#pragma once

#include "cuda/norm.h"

namespace lanner::cuda {

struct LayerNormArgs {
  const bf16* x;        // (rows, cols)
  const float* weight;  // (cols)
  const float* bias;    // (cols), or null
  bf16* out;            // (rows, cols), may be x
  int32_t cols;
  float eps;
  RowCount rows;

  template <class F>
  void each_field(F&& field) {
    field("x", x), field("weight", weight), field("bias", bias), field("out", out), field("cols", cols);
    field("eps", eps), field("rows", rows);
  }
};

inline void check(const LayerNormArgs& args) {
  check_present("layer_norm", "x", args.x), check_present("layer_norm", "out", args.out);
  check_present("layer_norm", "weight", args.weight);
  check_norm_cols("layer_norm", "cols", args.cols);
  check(args.eps >= 0, "layer_norm: eps is ", args.eps, ", wanted a number that is not negative");
}
void layer_norm(const LayerNormArgs& args, const Bounds& bounds);

}  // namespace lanner::cuda
