// SwiGLU: the gate and up panels of the same 16 outputs meet while both are in L1.
#pragma once

#include "cpu/linear.h"
#include "ops/gate_up.h"
#include "simd/math.h"

namespace lanner::LANNER_ISA_NS {
namespace {

void gate_up(const GateUpArgs& a, const Step& step, const Worker& worker, int begin, int end) {
  const PackedWeight& w = *a.weight;
  const int half = w.n_panels / 2, unit_panels = a.unit_rows / kPanelRows;
  const int first = begin * unit_panels, last = end * unit_panels < half ? end * unit_panels : half;
  alignas(64) float gate[kTokenBlock * kPanelRows], up[kTokenBlock * kPanelRows];
  for_token_blocks(step.rows(a.out.kind), [&](int t, int n) {
    for (int p = first; p < last; ++p) {
      const Panel panel = panel_of(w, p);
      panel_sums(panel, w.k, a.in, worker, t, n, gate);
      panel_sums(panel_of(w, half + p), w.k, a.in, worker, t, n, up);
      for (int i = 0; i < n * kPanelRows; i += 16) store(gate + i, silu(load(gate + i)) * load(up + i));
      write_rows(gate, panel, worker, a.out, t, n, false);
    }
  });
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
