// x = function(x), in place.
#pragma once

#include "ops/op.h"
#include "ops/packed.h"

namespace lanner {

// gelu: x Phi(x); gelu_tanh: its approximation x / (1 + exp(-2 sqrt(2/pi) (x + 0.044715 x^3)))
enum class Activation : int { kSilu, kGelu, kGeluTanh, kRelu, kTanh, kSigmoid };
inline constexpr const char* kActivationNames[] = {"silu", "gelu", "gelu_tanh", "relu", "tanh", "sigmoid"};

struct ActivateArgs {
  Activation function;
  Rows<float> x;      // (T or R, N)
  int32_t unit_cols;  // columns of a unit, a multiple of 16: those of the operation that makes x
};

inline void check_unit_cols(const char* op, int32_t unit_cols) {
  check(unit_cols > 0 && unit_cols % kPanelRows == 0, op, ": unit_cols is ", unit_cols,
        ", wanted a positive multiple of ", kPanelRows);
}
// A unit is a range of columns of every row, so that the thread that made them goes on with them.
inline int units_of_cols(const Rows<float>& x, int32_t unit_cols) {
  return static_cast<int>((int64_t{x.cols} + unit_cols - 1) / unit_cols);
}

inline void check(const ActivateArgs& a) { check_unit_cols("activate", a.unit_cols); }
inline int units(const ActivateArgs& a, const Step&) { return units_of_cols(a.x, a.unit_cols); }
inline Cost cost(const ActivateArgs& a, const Step& step) {
  const double n = static_cast<double>(step.rows(a.x.kind)) * a.x.cols;
  return {8 * n, n};
}

}  // namespace lanner
