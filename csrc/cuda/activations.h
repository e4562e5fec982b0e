// Activation functions of single numbers, accurate to a few units of float32.
#pragma once

#include "cuda/rows.h"

namespace lanner::cuda {

// gelu: x Phi(x); gelu_tanh: its approximation x / (1 + exp(-2 sqrt(2/pi) (x + 0.044715 x^3))). Numbered as
// on the CPU.
enum class Activation : int32_t { kSilu, kGelu, kGeluTanh, kRelu, kTanh, kSigmoid };

// 0 where exp(-x) would be infinite: -inf * 0 is no number.
LANNER_DEVICE float sigmoid(float x) {
  return x < -87.0f ? 0.0f : rcp_approx(1.0f + exp2_approx(-x * kLog2E));
}
LANNER_DEVICE float silu(float x) { return x < -87.0f ? 0.0f : x * sigmoid(x); }

LANNER_DEVICE float gelu_tanh(float x) {
  const float doubled = x * (0.0713548163f * x * x + 1.59576912f);
  return doubled < -87.0f ? 0.0f : x * rcp_approx(1.0f + exp2_approx(-doubled * kLog2E));
}

// Phi(-|x|) = t exp(P(t) - x^2 / 2) / 2 with t = 1 / (1 + |x| / sqrt(8)) and P of degree 9, as on the CPU.
LANNER_DEVICE float gelu(float x) {
  const float size = x < 0 ? -x : x, t = rcp_approx(0.353553391f * size + 1.0f);
  float p = 0.141441133f;
  p = p * t - 0.661739704f;
  p = p * t + 1.11159449f;
  p = p * t - 0.635849498f;
  p = p * t - 0.130533078f;
  p = p * t + 0.0281382692f;
  p = p * t + 0.025399053f;
  p = p * t + 0.388581175f;
  p = p * t + 0.998404877f;
  p = p * t - 1.26543667f;
  const float tail = 0.5f * t * exp2_approx((p - 0.5f * x * x) * kLog2E);
  return x < -14.0f ? 0.0f : x * (x < 0 ? tail : 1.0f - tail);  // Phi(-14) is below what float32 has
}

// 1 - 2 / (exp(2x) + 1) cancels where x is small; there the series up to x^9 is off by less than 2^-27 of x.
LANNER_DEVICE float tanh_of(float x) {
  const float s = x * x;
  const float series =
      x + x * s * (-0.333333333f + s * (0.133333333f + s * (-0.0539682540f + s * 0.0218694885f)));
  const float far = 1.0f - 2.0f * rcp_approx(exp2_approx(2.0f * kLog2E * x) + 1.0f);
  return s < 0.0625f ? series : far;
}

LANNER_DEVICE float activation(Activation function, float x) {
  switch (function) {
    case Activation::kSilu:
      return silu(x);
    case Activation::kGelu:
      return gelu(x);
    case Activation::kGeluTanh:
      return gelu_tanh(x);
    case Activation::kRelu:
      return x < 0 ? 0.0f : x;  // NaN stays
    case Activation::kTanh:
      return tanh_of(x);
    case Activation::kSigmoid:
      return sigmoid(x);
  }
  return x;
}

inline void check_activation(const char* op, Activation function) {
  const int i = static_cast<int>(function);
  check(i >= 0 && i <= static_cast<int>(Activation::kSigmoid), op, ": function is ", i, ", wanted 0 to 5");
}

}  // namespace lanner::cuda
