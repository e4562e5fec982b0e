// One token id per row of logits. Temperature 0 is the exact argmax, the lowest id on ties. Otherwise, in
// this order, each on the probabilities of what the one before left: divide by the temperature, keep the
// top_k largest, keep the smallest set of the largest whose probability reaches top_p, drop what is below
// min_p times the most likely, keep the smallest set of those whose -log p is nearest to the entropy with a
// probability of typical_p, and draw with the given uniform: the first id at which the sum of the
// probabilities of the survivors up to it is above the uniform. Of equal logits top_k and top_p keep the
// lower ids. Where the largest logit is infinite or no logit is a number the id is -1.
//
// Weights are integers (weights of tokens in draw.h), so that their sums are exact and in any order the same.
#pragma once

#include "cuda/rows.h"

namespace lanner::cuda {

inline constexpr int kSampleStretch = 1024;  // logits that a warp adds up: 32 each
inline constexpr int kSampleStretches = 512;
inline constexpr int kSampleMostVocab = kSampleStretch * kSampleStretches;
// What weighs less than 2^-40 of the likeliest weighs nothing: 2^-24 is the step of the uniform. In between
// logits fall into 32 bins for every halving of the weight.
inline constexpr int kSampleHalvings = 40, kSampleBinsPerHalving = 32;
inline constexpr int kSampleBins = kSampleHalvings * kSampleBinsPerHalving;

// What the kernels of a step leave for the next of them, for each row.
struct SampleScratch {
  float highest[kSampleStretches];  // logit
  uint64_t mass[kSampleStretches];
  int32_t counts[kSampleBins], mass_low[kSampleBins], mass_high[kSampleBins];
};

struct SampleArgs {
  const float* logits;    // (rows, vocab_size)
  const float* sampling;  // (rows, 6) temperature, top_k, top_p, min_p, typical_p, uniform in [0, 1)
  int32_t* out;           // (rows)
  void* scratch;          // (rows) SampleScratch
  int64_t scratch_bytes;  // that there are
  int32_t vocab_size;
  RowCount rows;

  template <class F>
  void each_field(F&& field) {
    field("logits", logits), field("sampling", sampling), field("out", out), field("scratch", scratch);
    field("scratch_bytes", scratch_bytes), field("vocab_size", vocab_size), field("rows", rows);
  }
};

inline void check(const SampleArgs& args) {
  check_present("sample", "logits", args.logits), check_present("sample", "sampling", args.sampling);
  check_present("sample", "out", args.out), check_present("sample", "scratch", args.scratch);
  check_multiple("sample", "vocab_size", args.vocab_size, 1);
  check(args.vocab_size <= kSampleMostVocab, "sample: vocab_size is ", args.vocab_size, ", wanted at most ",
        kSampleMostVocab);
}
void sample(const SampleArgs& args, const Bounds& bounds);

}  // namespace lanner::cuda
