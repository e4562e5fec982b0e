// out[t] = exp(x[t] - max) / sum(exp(x[t] - max)) over the columns, or its logarithm; accumulated in float32.
// A NaN or an infinity above, or nothing but -inf, makes a row of NaN.
#pragma once

#include "cuda/rows.h"

namespace lanner::cuda {

// What blocks that share a row leave for each other: maximum and sum of each of so many parts.
inline constexpr int kSoftmaxParts = 64;

struct SoftmaxArgs {
  const void* x;  // (rows, cols)
  void* out;      // (rows, cols), may be x where the types are the same
  float* parts;   // (rows, kSoftmaxParts, 2), or null: a block for each row
  ValueType x_type, out_type;
  int32_t cols;
  bool logarithm;
  RowCount rows;

  template <class F>
  void each_field(F&& field) {
    field("x", x), field("out", out), field("parts", parts), field("x_type", x_type);
    field("out_type", out_type), field("cols", cols), field("logarithm", logarithm), field("rows", rows);
  }
};

inline void check(const SoftmaxArgs& args) {
  check_present("softmax", "x", args.x), check_present("softmax", "out", args.out);
  check_multiple("softmax", "cols", args.cols, 1);
  for (ValueType t : {args.x_type, args.out_type})
    check(t == ValueType::kFloat32 || t == ValueType::kBf16, "softmax: a type is ", static_cast<int>(t),
          ", wanted 0 (float32) or 1 (bf16)");
}
void softmax(const SoftmaxArgs& args, const Bounds& bounds);

}  // namespace lanner::cuda
