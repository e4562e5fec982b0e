// x = cap * tanh(x / cap), in place: near 0 as it was, never beyond cap   (Gemma 2, 2024)
#pragma once

#include "ops/activate.h"

namespace lanner {

struct SoftcapArgs {
  Rows<float> x;  // (T or R, N)
  float cap;
  int32_t unit_cols;  // as in ops/activate.h
};

inline void check(const SoftcapArgs& a) {
  check(a.cap > 0 && a.cap <= std::numeric_limits<float>::max(), "softcap: cap is ", a.cap,
        ", wanted a positive number");
  check_unit_cols("softcap", a.unit_cols);
}
inline int units(const SoftcapArgs& a, const Step&) { return units_of_cols(a.x, a.unit_cols); }
inline Cost cost(const SoftcapArgs& a, const Step& step) {
  const double n = static_cast<double>(step.rows(a.x.kind)) * a.x.cols;
  return {8 * n, 3 * n};
}

}  // namespace lanner
