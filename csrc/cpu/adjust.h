// Penalties, biases and bans in a row of logits (ops/adjust.h).
#pragma once

#include "ops/adjust.h"

namespace lanner::LANNER_ISA_NS {
namespace {

inline void forbid(float* x, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) x[i] = -__builtin_inff();
}

void adjust(const AdjustRow& a) {
  for (int64_t i = 0; i < a.n_ids; ++i) {
    if (a.ids[i] >= a.n) continue;
    float& x = a.x[a.ids[i]];
    x = (x > 0 ? x / a.divisors[i] : x * a.divisors[i]) - a.shifts[i];
  }
  if (!a.only) return;
  int64_t next = 0;
  for (int64_t i = 0; i < a.n_only && a.only[i] < a.n; ++i) {
    forbid(a.x, next, a.only[i]);
    next = a.only[i] + int64_t{1};
  }
  forbid(a.x, next, a.n);
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
