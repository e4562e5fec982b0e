// RMS norm of queries and keys, head by head, in place.
#pragma once

#include "cpu/rms_norm.h"
#include "ops/head_norm.h"

namespace lanner::LANNER_ISA_NS {
namespace {

void head_norm(const HeadNormArgs& a, const Step& step, const Worker& worker, int begin, int end) {
  const int dim = a.head_dim(), n_normed = a.n_heads + a.n_kv_heads();
  for (int t = 0; t < step.n_tokens; ++t)
    for (int u = begin; u < end && u < n_normed; ++u) {
      float* x = a.qkv.row(worker, t) + int64_t{u} * dim;
      rms_norm_row(x, (u < a.n_heads ? a.q_weight : a.k_weight).data, x, dim, a.eps);
    }
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
