// The k largest elements of a row, in order; of equal ones the lower id first.
#pragma once

#include "cpu/order.h"
#include "ops/array_rows.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// NaN is above infinity; -0 and 0 are equal.
inline uint64_t top_key_of(float x, int64_t id) {
  if (x != x) return 0xffffffffull << 32 | static_cast<uint32_t>(~id);
  return key_of(x + 0.0f, static_cast<int>(id));
}

// Candidates collect until the room is full; then the best k stay, and only what beats the k-th of them is
// looked at further. What equals it comes later in the row and loses.
void top_k(const float* x, int64_t n, int64_t k, uint64_t* keys, float* values, int64_t* ids) {
  const int64_t room = top_k_room(n, k);
  uint64_t floor = 0;
  float limit = -__builtin_inff();
  int64_t size = 0;
  for (int64_t i = 0; i < n;) {
    if (floor && i + 16 <= n && !any_above(load(x + i), limit)) {
      i += 16;
      continue;
    }
    for (const int64_t end = i + 16 < n ? i + 16 : n; i < end; ++i) {
      const uint64_t key = top_key_of(x[i], i);
      if (key < floor) continue;
      if (size == room) {
        select_largest(keys, static_cast<int>(size), static_cast<int>(k));
        size = k;
        floor = ~0ull;
        for (int64_t j = 0; j < k; ++j) floor = keys[j] < floor ? keys[j] : floor;
        limit = x[static_cast<uint32_t>(~floor & 0xffffffffu)];
        if (key < floor) continue;
      }
      keys[size++] = key;
    }
  }
  select_largest(keys, static_cast<int>(size), static_cast<int>(k));
  sort_descending(keys, static_cast<int>(k));
  for (int64_t j = 0; j < k; ++j) {
    ids[j] = static_cast<uint32_t>(~keys[j] & 0xffffffffu);
    values[j] = x[ids[j]];
  }
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
