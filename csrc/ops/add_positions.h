// out[t] = x[t] + table[positions[t] + offset]: learned positions
#pragma once

#include "ops/op.h"

namespace lanner {

struct AddPositionsArgs {
  Rows<float> x;        // (T, K)
  Matrix<float> table;  // (P, K)
  int32_t offset;       // rows of the table before that of position 0
  Rows<float> out;      // (T, K)
};

// Positions that the table has a row for.
inline int32_t n_positions(const AddPositionsArgs& a) {
  const int64_t n = a.table.rows - a.offset, most = std::numeric_limits<int32_t>::max();
  return static_cast<int32_t>(n < most ? n : most);
}

inline void check(const AddPositionsArgs& a) {
  check_kind("add_positions", "x", a.x, RowKind::kTokens);
  check_kind("add_positions", "out", a.out, RowKind::kTokens);
  check_cols("add_positions", "out", a.out, a.x.cols);
  check(a.table.cols == a.x.cols, "add_positions: table has ", a.table.cols, " columns, x has ", a.x.cols);
  check(a.offset >= 0 && a.offset < a.table.rows, "add_positions: offset is ", a.offset, ", table has ",
        a.table.rows, " rows");
}
inline int units(const AddPositionsArgs&, const Step& step) { return step.n_tokens; }
inline Cost cost(const AddPositionsArgs& a, const Step& step) {
  const double n = static_cast<double>(step.n_tokens) * a.x.cols;
  return {12 * n, n};
}

}  // namespace lanner
