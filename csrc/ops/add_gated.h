// out = x + sigmoid(gate) * y, a gate for each row: how much of a shared expert a token takes
#pragma once

#include "ops/op.h"

namespace lanner {

struct AddGatedArgs {
  Rows<float> x;     // (T or R, K)
  Rows<float> y;     // like x
  Rows<float> gate;  // (T or R, 1)
  Rows<float> out;   // like x
};

inline void check(const AddGatedArgs& a) {
  for (const auto& [name, rows] :
       {std::pair{"y", &a.y}, std::pair{"gate", &a.gate}, std::pair{"out", &a.out}})
    check_kind("add_gated", name, *rows, a.x.kind);
  check_cols("add_gated", "y", a.y, a.x.cols);
  check_cols("add_gated", "gate", a.gate, 1);
  check_cols("add_gated", "out", a.out, a.x.cols);
}
inline int units(const AddGatedArgs& a, const Step& step) { return step.rows(a.x.kind); }
inline Cost cost(const AddGatedArgs& a, const Step& step) {
  const double n = static_cast<double>(units(a, step)) * a.x.cols;
  return {12 * n, 2 * n};
}

}  // namespace lanner
