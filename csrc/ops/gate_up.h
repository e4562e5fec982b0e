// out = function(x @ gate.T) * (x @ up.T)   (SwiGLU, GeGLU, ReGLU; Shazeer 2020)
#pragma once

#include "ops/activate.h"
#include "ops/linear.h"

namespace lanner {

struct GateUpArgs {
  const PackedWeight* weight;  // (2M, K): M rows of gate, then M rows of up
  LinearInput in;
  Rows<float> out;    // (T, M)
  int32_t unit_rows;  // rows of out of a unit, a multiple of 16
  Activation function = Activation::kSilu;
};

inline void check(const GateUpArgs& a) {
  const PackedWeight& w = *a.weight;
  check_input("gate_up", a.in, w, a.out);
  check_cols("gate_up", "out", a.out, w.n / 2);
  // The two halves are walked side by side: panel p of the one stands for the same rows as panel p of the
  // other.
  const int32_t half = w.n_panels / 2;
  bool even = w.n % 2 == 0 && w.n_panels % 2 == 0;
  for (int32_t p = 0; even && p < half; ++p) {
    const Panel gate = panel_of(w, p), up = panel_of(w, half + p);
    even = up.first_row - gate.first_row == w.n / 2 && up.n_rows == gate.n_rows;
  }
  check(even, "gate_up: the weight has ", w.n, " rows in ", w.n_panels,
        " panels, wanted two halves of equal panels");
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
