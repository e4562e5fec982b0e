// The largest of the router's logits of each token, as softmax weights.
#pragma once

#include "cpu/order.h"
#include "cpu/softmax.h"
#include "ops/route.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// Ids of the k largest of n logits in ascending order.
inline void choose_experts(const float* x, int n, int k, uint64_t* keys, int32_t* ids) {
  for (int i = 0; i < n; ++i) keys[i] = key_of(x[i], i);
  select_largest(keys, n, k);
  for (int i = 0; i < k; ++i) keys[i] &= 0xffffffffu;  // the complement of the id
  sort_descending(keys, k);
  for (int i = 0; i < k; ++i) ids[i] = id_of(keys[i]);
}

void route(const RouteArgs& a, const Step&, const Worker& worker, int begin, int end) {
  const int n = a.x.cols, k = a.ids.cols;
  alignas(64) float chosen[kMaxExperts + 16];
  for (int t = begin; t < end; ++t) {
    const float* x = a.x.row(worker, t);
    int32_t* ids = a.ids.row(worker, t);
    float* weights = a.weights.row(worker, t);
    choose_experts(x, n, k, reinterpret_cast<uint64_t*>(worker.scratch), ids);
    const float largest = max_of(x, n), all = sum_exp<false>(x, largest, nullptr, n);
    for (int i = 0; i < k; ++i) chosen[i] = x[ids[i]];
    for (int i = k; i < k + 16; ++i) chosen[i] = largest;
    float sum = all - all;  // NaN where a logit is
    for (int i = 0; i < k; i += 16) store(chosen + i, exp_of_nonpositive(load(chosen + i) - set1(largest)));
    for (int i = 0; i < k; ++i) sum += chosen[i];
    for (int i = 0; i < k; ++i) weights[i] = chosen[i] / (a.normalise ? sum : all);
  }
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
