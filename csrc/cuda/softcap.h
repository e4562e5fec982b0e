// out = cap * tanh(x / cap): near 0 as it was, never beyond cap   (Gemma 2, 2024)
#pragma once

#include "cuda/activations.h"
#include "cuda/elementwise.h"

namespace lanner::cuda {

struct SoftcapArgs {
  const void* x;  // (rows, cols)
  void* out;      // (rows, cols), may be x
  ValueType type;
  int32_t cols;
  float cap;
  RowCount rows;

  template <class F>
  void each_field(F&& field) {
    field("x", x), field("out", out), field("type", type), field("cols", cols), field("cap", cap);
    field("rows", rows);
  }
};

inline void check(const SoftcapArgs& args) {
  check_value_type("softcap", args.type);
  check_element_cols("softcap", args.cols, args.type);
  check(args.cap > 0 && args.cap <= -kLowest, "softcap: cap is ", args.cap, ", wanted a positive number");
}
void softcap(const SoftcapArgs& args, const Bounds& bounds);

}  // namespace lanner::cuda
