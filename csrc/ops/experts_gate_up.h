// out[t][slot * M ...] = function(x[t] @ gate.T) * (x[t] @ up.T) of expert ids[t][slot]: as gate_up, for each
// choice.
#pragma once

#include "ops/experts.h"
#include "ops/gate_up.h"

namespace lanner {

struct ExpertsGateUpArgs {
  const PackedWeight* weight;  // (E * 2M, K): of each expert M rows of gate, then M rows of up
  LinearInput in;              // (T or R, K)
  Rows<int32_t> ids;           // (T or R, k) ascending
  Rows<float> out;             // (T or R, k * M)
  int32_t n_experts;
  int32_t unit_rows;  // of M, a multiple of 16
  Activation function;
};

inline void check(const ExpertsGateUpArgs& a) {
  const char* op = "experts_gate_up";
  const PackedWeight& w = *a.weight;
  check_input(op, a.in, w, a.out);
  check_experts(op, w, a.n_experts);
  const int n_panels = panels_of_expert(w, a.n_experts), rows = w.n / a.n_experts;
  check_halves(op, rows, n_panels, [&](int p) { return expert_panel(w, a.n_experts, 0, p); });
  check_choices(op, a.ids, a.out, a.n_experts);
  check_cols(op, "out", a.out, int64_t{a.ids.cols} * (rows / 2));
  check_unit_rows(op, a.unit_rows);
}
// A unit is a range of rows of M for all experts: how many there are does not depend on what tokens chose.
inline int units(const ExpertsGateUpArgs& a, const Step&) {
  return (panels_of_expert(*a.weight, a.n_experts) / 2 * kPanelRows + a.unit_rows - 1) / a.unit_rows;
}
inline Cost cost(const ExpertsGateUpArgs& a, const Step& step) {
  return cost_of_experts(*a.weight, a.n_experts, static_cast<double>(step.rows(a.out.kind)) * a.ids.cols);
}

}  // namespace lanner
