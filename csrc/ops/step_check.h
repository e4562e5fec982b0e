// What a step points to must exist: kernels follow its ids, rows, positions and pages without a look.
#pragma once

#include "ops/op.h"

namespace lanner {

// Token ids against the rows of an embedding.
void check_token_ids(const char* op, const Step& step, int32_t vocab_size);

// Output rows against the tokens of the step.
void check_output_rows(const char* op, const Step& step);

// Sequences cover the tokens in order, positions are the last ones cached, pages are in the cache.
void check_sequences(const char* op, const Step& step, int32_t n_pages);

}  // namespace lanner
