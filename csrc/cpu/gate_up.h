// A gated activation: the gate and up panels of the same 16 outputs meet while both are in L1.
#pragma once

#include "cpu/activations.h"
#include "cpu/linear.h"
#include "ops/gate_up.h"

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
        activate(a.function, gate, up, gate, n * kPanelRows);
        write_rows(gate, panels[2 * i], worker, a.out, t, n, false, nullptr);
      }
    }
  });
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
