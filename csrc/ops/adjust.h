// Changes a row of logits by what a request asks for, before a token is drawn from it.
#pragma once

#include <cstdint>

namespace lanner {

struct AdjustRow {
  float* x;  // (n)
  int64_t n;
  // x = (x > 0 ? x / divisor : x * divisor) - shift for some ids, one entry after the other; a shift of
  // infinity forbids an id. What no row has cannot be drawn: ids from n on are left out.
  const int32_t* ids;     // (n_ids) of at least 0
  const float* divisors;  // (n_ids) above 0
  const float* shifts;    // (n_ids)
  int64_t n_ids;
  // Then all ids but these are forbidden, unless it is null.
  const int32_t* only;  // (n_only) ascending, of at least 0
  int64_t n_only;
};

}  // namespace lanner
