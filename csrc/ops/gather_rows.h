// out[r] = x[output_rows[r]]: only rows that want logits go through the head.
#pragma once

#include "ops/op.h"

namespace lanner {

struct GatherRowsArgs {
  Rows<float> x;    // (T, K)
  Rows<float> out;  // (R, K)
};

inline void check(const GatherRowsArgs& a) {
  check_kind("gather_rows", "x", a.x, RowKind::kTokens);
  check_kind("gather_rows", "out", a.out, RowKind::kOutputs);
  check_cols("gather_rows", "out", a.out, a.x.cols);
}
inline int units(const GatherRowsArgs&, const Step& step) { return step.n_outputs; }
inline Cost cost(const GatherRowsArgs& a, const Step& step) { return {8.0 * step.n_outputs * a.x.cols, 0}; }

}  // namespace lanner
