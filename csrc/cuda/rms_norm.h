// out[t][i] = x[t][i] / sqrt(mean(x[t]^2) + eps) * weight[i]
#pragma once

#include "cuda/norm.h"

namespace lanner::cuda {

struct RmsNormArgs {
  const bf16* x;        // (rows, cols)
  const float* weight;  // (cols), or null: ones
  bf16* out;            // (rows, cols), may be x
  int32_t cols;
  float eps;
  RowCount rows;

  template <class F>
  void each_field(F&& field) {
    field("x", x), field("weight", weight), field("out", out), field("cols", cols), field("eps", eps);
    field("rows", rows);
  }
};

inline void check(const RmsNormArgs& args) {
  check_present("rms_norm", "x", args.x), check_present("rms_norm", "out", args.out);
  check_norm_cols("rms_norm", "cols", args.cols);
  check(args.eps >= 0, "rms_norm: eps is ", args.eps, ", wanted a number that is not negative");
}
void rms_norm(const RmsNormArgs& args, const Bounds& bounds);

}  // namespace lanner::cuda
