// The k experts that a token goes to: the largest of softmax(x), lower ids first on ties, in ascending id,
// and their shares of the softmax, which `normalise` divides by their sum (Shazeer et al., 2017). Where a
// logit is NaN or the largest is infinite the weights are NaN.
#pragma once

#include "ops/op.h"

namespace lanner {

inline constexpr int kMaxExperts = 1024;  // of a layer; models have up to 512

struct RouteArgs {
  Rows<float> x;        // (T or R, E) logits of the router
  Rows<int32_t> ids;    // (T or R, k)
  Rows<float> weights;  // (T or R, k)
  bool normalise;
};

inline void check(const RouteArgs& a) {
  check(a.x.cols >= 1 && a.x.cols <= kMaxExperts, "route: x has ", a.x.cols, " columns, wanted 1 to ",
        kMaxExperts);
  check(a.ids.cols >= 1 && a.ids.cols <= a.x.cols, "route: ids has ", a.ids.cols, " columns, wanted 1 to ",
        a.x.cols);
  check_kind("route", "ids", a.ids, a.x.kind);
  check_kind("route", "weights", a.weights, a.x.kind);
  check_cols("route", "weights", a.weights, a.ids.cols);
}
inline int units(const RouteArgs& a, const Step& step) { return step.rows(a.x.kind); }
inline Cost cost(const RouteArgs& a, const Step& step) {
  const double n = units(a, step);
  return {n * (4.0 * a.x.cols + 8.0 * a.ids.cols), n * a.x.cols};
}

}  // namespace lanner
