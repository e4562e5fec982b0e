// Rotary position embedding of the rows of an array.
#pragma once

#include "cpu/rope_append.h"
#include "ops/array_rows.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// Pairs (2i, 2i + 1). In place: a pair is read before it is written.
inline void rotate_interleaved(const float* x, const float* table, int half, float* out) {
  for (int i = 0; i < half; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1], c = table[i], s = table[half + i];
    out[2 * i] = a * c - b * s;
    out[2 * i + 1] = b * c + a * s;
  }
}

void rope_rows(const RopeRows& a, int64_t begin, int64_t end) {
  const int half = static_cast<int>(a.n_rotated / 2);
  for (int64_t r = begin; r < end; ++r) {
    const float *x = a.x + r * a.n, *table = a.table + a.angles[r] * a.n_rotated;
    float* out = a.out + r * a.n;
    a.interleaved ? rotate_interleaved(x, table, half, out) : rotate(x, table, half, out);
    if (x != out)
      std::memcpy(out + a.n_rotated, x + a.n_rotated, sizeof(float) * static_cast<size_t>(a.n - a.n_rotated));
  }
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
