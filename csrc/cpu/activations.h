// Activation functions of arrays, alone or times a second array (SwiGLU, GeGLU).
#pragma once

#include "ops/array_rows.h"
#include "simd/math.h"
#include "simd/tail.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// x Phi(x). The limit at -inf is 0, which -inf * 0 is not.
inline F32 gelu(F32 x) { return max(set1(-__FLT_MAX__), x) * normal_cdf(x); }

// 0.5 x (1 + tanh(u)) = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3): no tanh is needed.
inline F32 gelu_tanh(F32 x) {
  const F32 doubled = x * fma(set1(0.0713548163f), x * x, set1(1.59576912f));
  return zero_below(x / (set1(1.0f) + exp(zero() - doubled)), doubled, -87.0f);
}

inline F32 relu(F32 x) { return max(zero(), x); }

// 1 / (1 + exp(-x)); 0 below -87, as silu.
inline F32 sigmoid(F32 x) { return zero_below(set1(1.0f) / (set1(1.0f) + exp(zero() - x)), x, -87.0f); }

template <class Function>
inline void activate_with(Function f, const float* gate, const float* up, float* out, int64_t n) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const F32 y = f(load(gate + i));
    store(out + i, up ? y * load(up + i) : y);
  }
  if (i == n) return;
  const int left = static_cast<int>(n - i);
  const F32 y = f(load_n(gate + i, left));
  store_n(out + i, left, up ? y * load_n(up + i, left) : y);
}

void activate(Activation f, const float* gate, const float* up, float* out, int64_t n) {
  switch (f) {
    case Activation::kSilu:
      return activate_with([](F32 x) { return silu(x); }, gate, up, out, n);
    case Activation::kGelu:
      return activate_with([](F32 x) { return gelu(x); }, gate, up, out, n);
    case Activation::kGeluTanh:
      return activate_with([](F32 x) { return gelu_tanh(x); }, gate, up, out, n);
    case Activation::kRelu:
      return activate_with([](F32 x) { return relu(x); }, gate, up, out, n);
    case Activation::kTanh:
      return activate_with([](F32 x) { return tanh(x); }, gate, up, out, n);
    case Activation::kSigmoid:
      return activate_with([](F32 x) { return sigmoid(x); }, gate, up, out, n);
  }
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
