// One token id per row of logits. Temperature 0 is the exact argmax, the lowest id on ties. Otherwise, in
// this order, each on the probabilities of what the one before left: divide by the temperature, keep the
// top_k largest, keep the smallest set of the largest whose probability reaches top_p, drop what is below
// min_p times the most likely, keep the smallest set of those whose -log p is nearest to the entropy with a
// probability of typical_p, and draw with the given uniform: the first id at which the sum of the
// probabilities of the survivors up to it is above the uniform. Of equal logits top_k and top_p keep the
// lower ids. Where the largest logit is infinite or no logit is a number the id is -1.
#pragma once

#include "ops/op.h"

namespace lanner {

inline constexpr int kMaxVocab = kScratchBytes / 16;  // four numbers for every token fit in the scratch
inline constexpr int kSamplingCols = 6;  // temperature, top_k, top_p, min_p, typical_p, uniform in [0, 1)

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
