// A gated activation: the gate and up panels of the same 16 outputs meet while both are in L1.
#pragma once

#include "cpu/activations.h"
#include "cpu/linear.h"
#include "ops/gate_up.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// Calls write(gate panel, function(gate) * up of n tokens) for the pairs of panels panel_at(p), panel_at(half
// + p) of first <= p < last.
template <class PanelAt, class Write>
inline void for_gated_panels(int first, int last, int half, int k, Activation function, const Input& in,
                             const Worker& worker, int t, int n_tokens, PanelAt panel_at, Write write) {
  float* sums = sums_of(worker);
  Panel panels[kGroupPanels];
  for (int p = first, n_pairs; p < last; p += n_pairs) {
    n_pairs = std::min((group_of(panel_at(p), n_tokens) + 1) / 2, last - p);
    for (int i = 0; i < n_pairs; ++i)
      panels[2 * i] = panel_at(p + i), panels[2 * i + 1] = panel_at(half + p + i);
    group_sums(panels, 2 * n_pairs, k, in, worker.scratch, t, n_tokens, sums);
    for (int i = 0; i < n_pairs; ++i) {
      float* gate = sums + 2 * i * kTokenBlock * kPanelRows;
      activate(function, gate, gate + kTokenBlock * kPanelRows, gate, n_tokens * kPanelRows);
      write(panels[2 * i], gate);
    }
  }
}

void gate_up(const GateUpArgs& a, const Step& step, const Worker& worker, int begin, int end) {
  const PackedWeight& w = *a.weight;
  const int half = w.n_panels / 2, unit_panels = a.unit_rows / kPanelRows;
  const int first = begin * unit_panels, last = std::min(end * unit_panels, half);
  const Input in(a.in, worker, w.k);
  for_token_blocks(step.rows(a.out.kind), kTokenBlock, [&](int t, int n) {
    for_gated_panels(
        first, last, half, w.k, a.function, in, worker, t, n, [&](int p) { return panel_of(w, p); },
        [&](const Panel& panel, const float* sums) {
          write_rows(sums, panel, worker, a.out, t, n, false, nullptr);
        });
  });
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
