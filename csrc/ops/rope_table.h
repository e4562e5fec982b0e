// out[t] = factor * cos(position[t] * inv_freq[i]) for i < D/2, then the sines: one table serves all layers.
#pragma once

#include <cmath>

#include "ops/op.h"

namespace lanner {

struct RopeTableArgs {
  Vector<double> inv_freq;  // (D/2) theta^(-2i/D), with any scaling applied; D: what is rotated of a head
  Rows<float> out;          // (T, D)
  double factor = 1;        // scores grow by its square (YaRN, Peng et al., 2023)
};

inline void check(const RopeTableArgs& a) {
  check_kind("rope_table", "out", a.out, RowKind::kTokens);
  check_cols("rope_table", "out", a.out, 2 * a.inv_freq.size);
  check(a.factor > 0 && std::isfinite(a.factor), "rope_table: factor is ", a.factor,
        ", wanted a positive number");
}
inline int units(const RopeTableArgs&, const Step& step) { return step.n_tokens; }
inline Cost cost(const RopeTableArgs& a, const Step& step) { return {4.0 * step.n_tokens * a.out.cols, 0}; }

}  // namespace lanner
