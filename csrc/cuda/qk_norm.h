// x = x / sqrt(mean(x^2) + eps) * weight over all query columns of a row of qkv together, and over all its
// key columns, in place. Values are left as they are.
#pragma once

#include "cuda/norm.h"

namespace lanner::cuda {

struct QkNormArgs {
  bf16* qkv;              // (rows, q_cols + 2 k_cols): queries, keys, values
  const float* q_weight;  // (q_cols)
  const float* k_weight;  // (k_cols)
  int32_t q_cols, k_cols;
  float eps;
  RowCount rows;

  template <class F>
  void each_field(F&& field) {
    field("qkv", qkv), field("q_weight", q_weight), field("k_weight", k_weight), field("q_cols", q_cols);
    field("k_cols", k_cols), field("eps", eps), field("rows", rows);
  }
};

inline void check(const QkNormArgs& args) {
  check_present("qk_norm", "qkv", args.qkv), check_present("qk_norm", "q_weight", args.q_weight);
  check_present("qk_norm", "k_weight", args.k_weight);
  check_norm_cols("qk_norm", "q_cols", args.q_cols), check_norm_cols("qk_norm", "k_cols", args.k_cols);
  check(args.eps >= 0, "qk_norm: eps is ", args.eps, ", wanted a number that is not negative");
}
void qk_norm(const QkNormArgs& args, const Bounds& bounds);

}  // namespace lanner::cuda
