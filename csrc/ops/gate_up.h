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

// The two halves are walked side by side: panel p of the one stands for the same rows as panel p of the
// other.
template <class PanelAt>
void check_halves(const char* op, int32_t n_rows, int32_t n_panels, PanelAt panel_at) {
  const int32_t half = n_panels / 2;
  bool even = n_rows % 2 == 0 && n_panels % 2 == 0;
  for (int32_t p = 0; even && p < half; ++p) {
    const Panel gate = panel_at(p), up = panel_at(half + p);
    even = up.first_row - gate.first_row == n_rows / 2 && up.n_rows == gate.n_rows;
  }
  check(even, op, ": the weight has ", n_rows, " rows in ", n_panels,
        " panels, wanted two halves of equal panels");
}

inline void check(const GateUpArgs& a) {
  const PackedWeight& w = *a.weight;
  check_input("gate_up", a.in, w, a.out);
  check_cols("gate_up", "out", a.out, w.n / 2);
  check_halves("gate_up", w.n, w.n_panels, [&](int p) { return panel_of(w, p); });
  check_unit_rows("gate_up", a.unit_rows);
}
inline int units(const GateUpArgs& a, const Step&) {
  return (a.weight->n_panels / 2 * kPanelRows + a.unit_rows - 1) / a.unit_rows;
}
inline Cost cost(const GateUpArgs& a, const Step& step) {
  return cost_of_weight(*a.weight, step.rows(a.out.kind));
}

}  // namespace lanner
