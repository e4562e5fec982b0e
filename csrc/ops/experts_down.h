// out[t] = sum over slots, in ascending id, of weights[t][slot] * (x[t][slot * M ...] @ down.T of expert
// ids[t][slot]):
//   out = fma(weight, sum, out) for one expert after the other, from 0 or, with add, from what out holds
#pragma once

#include "ops/experts.h"

namespace lanner {

struct ExpertsDownArgs {
  const PackedWeight* weight;  // (E * N, M)
  LinearInput in;              // (T or R, k * M); codes of k rows of M, one after the other
  Rows<int32_t> ids;           // (T or R, k) ascending
  Rows<float> weights;         // (T or R, k)
  Rows<float> out;             // (T or R, N)
  bool add;                    // out += instead of out =
  int32_t n_experts;
  int32_t unit_rows;  // of N, a multiple of 16
};

inline void check(const ExpertsDownArgs& a) {
  const char* op = "experts_down";
  const PackedWeight& w = *a.weight;
  check_input(op, a.in, w, a.out, a.ids.cols);
  check_experts(op, w, a.n_experts);
  check_choices(op, a.ids, a.out, a.n_experts);
  check_kind(op, "weights", a.weights, a.out.kind);
  check_cols(op, "weights", a.weights, a.ids.cols);
  check_cols(op, "out", a.out, w.n / a.n_experts);
  check_unit_rows(op, a.unit_rows);
}
inline int units(const ExpertsDownArgs& a, const Step&) {
  return (panels_of_expert(*a.weight, a.n_experts) * kPanelRows + a.unit_rows - 1) / a.unit_rows;
}
inline Cost cost(const ExpertsDownArgs& a, const Step& step) {
  return cost_of_experts(*a.weight, a.n_experts, static_cast<double>(step.rows(a.out.kind)) * a.ids.cols);
}

}  // namespace lanner
