// One token id per row of logits. Temperature 0 is the exact argmax, the lowest id on ties. Otherwise, in
// this order: divide by the temperature, keep the top_k largest, keep the smallest set of the largest whose
// probability reaches top_p, drop what is below min_p times the most likely, and draw with the given uniform.
// Where the largest logit is infinite or no logit is a number the id is -1.
#pragma once

#include "ops/op.h"

namespace lanner {

inline constexpr int kMaxVocab =
    kScratchBytes / sizeof(uint64_t);    // a key of every token fits in the scratch
inline constexpr int kSamplingCols = 5;  // temperature, top_k, top_p, min_p, uniform in [0, 1)

struct SampleArgs {
  Rows<float> logits;  // (R, V)
  Rows<int32_t> out;   // (R, 1)
};

inline void check(const SampleArgs& a) {
  check(a.logits.cols > 0, "sample: logits has no columns");
  check_kind("sample", "logits", a.logits, RowKind::kOutputs);
  check_kind("sample", "out", a.out, RowKind::kOutputs);
  check(a.logits.cols <= kMaxVocab, "sample: logits has ", a.logits.cols, " columns, wanted at most ",
        kMaxVocab);
  check_cols("sample", "out", a.out, 1);
}
inline int units(const SampleArgs&, const Step& step) { return step.n_outputs; }
inline Cost cost(const SampleArgs& a, const Step& step) { return {4.0 * step.n_outputs * a.logits.cols, 0}; }

}  // namespace lanner
