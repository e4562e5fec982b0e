// Weights of all experts of a layer as one packed weight, and the experts that tokens chose.
//
// A choice is a pair of a token and one of its k experts; choice token * k + slot has row (or column range)
// number `slot` of its token, in ascending id of the experts (ops/route.h).
#pragma once

#include "ops/linear.h"
#include "ops/route.h"

namespace lanner {

// Panels of every expert lie side by side; segments belong to one expert each, or one holds them all.
inline int panels_of_expert(const PackedWeight& w, int n_experts) { return w.n_panels / n_experts; }
inline int first_segment(const PackedWeight& w, int n_experts, int expert) {
  return static_cast<int>(w.segments.size() / static_cast<size_t>(n_experts)) * expert;
}
// Panel `panel` of an expert; its first_row counts from the first row of the expert.
inline Panel expert_panel(const PackedWeight& w, int n_experts, int expert, int panel) {
  Panel p = panel_of(w, expert * panels_of_expert(w, n_experts) + panel, first_segment(w, n_experts, expert));
  p.first_row -= expert * (w.n / n_experts);
  return p;
}

// Every expert has the panels of expert 0, in other memory and perhaps other formats.
inline void check_experts(const char* op, const PackedWeight& w, int32_t n_experts) {
  check(n_experts >= 1 && n_experts <= kMaxExperts, op, ": n_experts is ", n_experts, ", wanted 1 to ",
        kMaxExperts);
  const size_t n_segments = w.segments.size(), n = static_cast<size_t>(n_experts);
  bool equal =
      w.n % n_experts == 0 && w.n_panels % n_experts == 0 && (n_segments % n == 0 || n_segments == 1);
  const int n_panels = panels_of_expert(w, n_experts);
  for (int e = 0; equal && e < n_experts; ++e) {
    equal = w.segments[first_segment(w, n_experts, e)].first_panel <= e * n_panels;
    for (int p = 0; equal && p < n_panels; ++p) {
      const Panel first = expert_panel(w, n_experts, 0, p), same = expert_panel(w, n_experts, e, p);
      equal = first.first_row == same.first_row && first.n_rows == same.n_rows;
    }
  }
  check(equal, op, ": the weight has ", w.n, " rows in ", w.n_panels, " panels of ", n_segments,
        " segments, wanted equal ones for ", n_experts, " experts");
}

inline void check_choices(const char* op, const Rows<int32_t>& ids, const Rows<float>& out,
                          int32_t n_experts) {
  check_kind(op, "ids", ids, out.kind);
  check(ids.cols >= 1 && ids.cols <= n_experts, op, ": ids has ", ids.cols, " columns, wanted 1 to ",
        n_experts);
}

// Ids that came from elsewhere than route.
inline void check_ids(const char* op, const Rows<int32_t>& ids, int n_rows, int32_t n_experts) {
  for (int t = 0; t < n_rows; ++t)
    for (int i = 0; i < ids.cols; ++i) {
      const int32_t* row = ids.row(Worker{}, t);
      check(row[i] >= 0 && row[i] < n_experts && (i == 0 || row[i] > row[i - 1]), op, ": row ", t,
            " of ids has ", row[i], " in column ", i, ", wanted ascending ids of ", n_experts, " experts");
    }
}

// Of the experts that the step may need, at most one a choice.
inline Cost cost_of_experts(const PackedWeight& w, int32_t n_experts, double n_choices) {
  const double rows = static_cast<double>(w.n) / n_experts;
  const double used = n_choices < n_experts ? n_choices : n_experts;
  return {w.n_bytes * used / n_experts + 4.0 * n_choices * (w.k + rows), 2.0 * n_choices * w.k * rows};
}

}  // namespace lanner
