// x = x / sqrt(mean(x^2) + eps) * weight over each query head and each key head of qkv, in place; weight is
// q_weight for queries, k_weight for keys. Values are left as they are.   (Henry et al., 2020)
#pragma once

#include "cuda/rows.h"

namespace lanner::cuda {

struct HeadNormArgs {
  bf16* qkv;              // (rows, (H + 2 KH) D): query heads, key heads, value heads
  const float* q_weight;  // (D)
  const float* k_weight;  // (D)
  int32_t n_heads, n_kv_heads, head_dim;
  float eps;
  RowCount rows;

  template <class F>
  void each_field(F&& field) {
    field("qkv", qkv), field("q_weight", q_weight), field("k_weight", k_weight), field("n_heads", n_heads);
    field("n_kv_heads", n_kv_heads), field("head_dim", head_dim), field("eps", eps), field("rows", rows);
  }
};

inline void check(const HeadNormArgs& a) {
  const char* op = "head_norm";
  check_present(op, "qkv", a.qkv), check_present(op, "q_weight", a.q_weight);
  check_present(op, "k_weight", a.k_weight);
  check_multiple(op, "n_heads", a.n_heads, 1), check_multiple(op, "n_kv_heads", a.n_kv_heads, 1);
  check_multiple(op, "head_dim", a.head_dim, 8);
  check(a.head_dim <= 512, op, ": head_dim is ", a.head_dim, ", wanted at most 512");
  check(a.eps >= 0, op, ": eps is ", a.eps, ", wanted a number that is not negative");
}
void head_norm(const HeadNormArgs& args, const Bounds& bounds);

}  // namespace lanner::cuda
