// out = silu(x @ gate.T) * (x @ up.T), silu(a) = a / (1 + exp(-a))   (SwiGLU, Shazeer 2020)
#pragma once

#include "ops/linear.h"

namespace lanner {

struct GateUpArgs {
  const PackedWeight* weight;  // (2M, K): M rows of gate, then M rows of up
  LinearInput in;
  Rows<float> out;    // (T, M)
  int32_t unit_rows;  // rows of out of a unit, a multiple of 16
};

inline void check(const GateUpArgs& a) {
  check_input("gate_up", a.in, *a.weight);
  check_cols("gate_up", "out", a.out, a.weight->n / 2);
  // The two halves are walked side by side, panel by panel.
  int32_t half_panels = 0;
  for (const Segment& s : a.weight->segments)
    if (s.first_row < a.weight->n / 2) half_panels += s.n_panels;
  check(a.weight->n % 2 == 0 && 2 * half_panels == a.weight->n_panels, "gate_up: the weight has ",
        a.weight->n, " rows in ", a.weight->n_panels, " panels, wanted two halves of equal panels");
  check(a.unit_rows > 0 && a.unit_rows % kPanelRows == 0, "gate_up: unit_rows is ", a.unit_rows,
        ", wanted a positive multiple of ", kPanelRows);
}
inline int units(const GateUpArgs& a, const Step&) {
  return (a.weight->n_panels / 2 * kPanelRows + a.unit_rows - 1) / a.unit_rows;
}
inline Cost cost(const GateUpArgs& a, const Step& step) {
  return cost_of_weight(*a.weight, step.rows(a.out.kind));
}

}  // namespace lanner
