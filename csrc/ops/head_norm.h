// x = x / sqrt(mean(x^2) + eps) * weight over each query head and each key head of qkv, in place; weight is
// q_weight for queries, k_weight for keys. Values are left as they are.   (Henry et al., 2020)
#pragma once

#include "ops/op.h"

namespace lanner {

struct HeadNormArgs {
  Rows<float> qkv;         // (T, (H + 2 KH) D): query heads, key heads, value heads
  Vector<float> q_weight;  // (D)
  Vector<float> k_weight;  // (D)
  int32_t n_heads;
  float eps;

  int32_t head_dim() const { return static_cast<int32_t>(q_weight.size); }
  int32_t n_kv_heads() const { return (qkv.cols / head_dim() - n_heads) / 2; }
};

inline void check(const HeadNormArgs& a) {
  check(a.q_weight.size > 0 && a.k_weight.size == a.q_weight.size, "head_norm: q_weight and k_weight have ",
        a.q_weight.size, " and ", a.k_weight.size, " elements, wanted those of a head each");
  check_kind("head_norm", "qkv", a.qkv, RowKind::kTokens);
  check(a.n_heads > 0, "head_norm: n_heads is ", a.n_heads, ", wanted a positive number");
  const int64_t least = (int64_t{a.n_heads} + 2) * a.q_weight.size, pair = 2 * a.q_weight.size;
  check(a.qkv.cols >= least && (a.qkv.cols - least) % pair == 0, "head_norm: qkv has ", a.qkv.cols,
        " columns, wanted ", least, " and a multiple of ", pair);
  check(a.eps >= 0, "head_norm: eps is ", a.eps, ", wanted a number that is not negative");
}
// A unit is one head of every token.
inline int units(const HeadNormArgs& a, const Step&) { return a.n_heads + 2 * a.n_kv_heads(); }
inline Cost cost(const HeadNormArgs& a, const Step& step) {
  const double n = static_cast<double>(step.n_tokens) * (a.n_heads + a.n_kv_heads()) * a.head_dim();
  return {8 * n, 4 * n};
}

}  // namespace lanner
