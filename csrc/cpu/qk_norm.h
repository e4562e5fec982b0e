// RMS norm of the queries of a row together, and of its keys, in place.
#pragma once

#include "cpu/rms_norm.h"
#include "ops/qk_norm.h"

namespace lanner::LANNER_ISA_NS {
namespace {

void qk_norm(const QkNormArgs& a, const Step&, const Worker& worker, int begin, int end) {
  for (int t = begin; t < end; ++t) {
    float *q = a.qkv.row(worker, t), *k = q + a.q_weight.size;
    rms_norm_row(q, a.q_weight.data, q, a.q_weight.size, a.eps);
    rms_norm_row(k, a.k_weight.data, k, a.k_weight.size, a.eps);
  }
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
