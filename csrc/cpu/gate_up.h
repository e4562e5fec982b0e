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
  const int first = begin * unit_panels, last = std::min(end * unit_panels, half);
  float* sums = sums_of(worker);
  for_token_blocks(step.rows(a.out.kind), [&](int t, int n) {
    Panel panels[kGroupPanels];
    for (int p = first, n_pairs; p < last; p += n_pairs) {
      n_pairs = std::min((group_of(panel_of(w, p), n) + 1) / 2, last - p);
      for (int i = 0; i < n_pairs; ++i)
        panels[2 * i] = panel_of(w, p + i), panels[2 * i + 1] = panel_of(w, half + p + i);
      group_sums(panels, 2 * n_pairs, w.k, a.in, worker, t, n, sums);
      for (int i = 0; i < n_pairs; ++i) {
        float* gate = sums + 2 * i * kTokenBlock * kPanelRows;
        const float* up = gate + kTokenBlock * kPanelRows;
        for (int r = 0; r < n * kPanelRows; r += 16) store(gate + r, silu(load(gate + r)) * load(up + r));
        write_rows(gate, panels[2 * i], worker, a.out, t, n, false);
      }
    }
  });
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
