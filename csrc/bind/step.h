// The arrays of a step, owned here and written by Python in place.
#pragma once

#include <vector>

#include "bind/bind.h"
#include "core/memory.h"
#include "core/tensor.h"
#include "ops/sample.h"

namespace lanner {

class StepBuffers {
 public:
  StepBuffers(int32_t max_tokens, int32_t max_seqs, int32_t max_outputs, int32_t max_pages,
              int32_t max_cross_pages, int32_t n_groups);

  // Views for kernels; the counts are the ones of the step that was written last.
  Step view() const;

  int32_t n_tokens = 0, n_seqs = 0, n_outputs = 0;
  const int32_t max_tokens, max_seqs, max_outputs, max_pages, max_cross_pages, n_groups;
  std::vector<int32_t> token_ids, positions, token_seqs, seq_starts, kv_lens, output_rows;
  std::vector<int32_t> cross_lens, cross_tables;
  std::vector<float> sampling;
  // (n_groups * max_seqs, max_pages) int32: zero, and not resident, until it is written
  Memory block_tables;
};

}  // namespace lanner
