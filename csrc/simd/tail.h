// The end of a row that does not fill sixteen lanes.
#pragma once

#include "simd/vec.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// Lanes past the end of a row count as zero.
inline F32 load_n(const float* p, int n) {
  float padded[16] = {};
  std::memcpy(padded, p, sizeof(float) * n);
  return load(padded);
}
inline void store_n(float* p, int n, F32 v) {
  float padded[16];
  store(padded, v);
  std::memcpy(p, padded, sizeof(float) * n);
}

// Of n <= 16 lanes, most often all.
inline F32 load_upto(const float* p, int n) { return n == 16 ? load(p) : load_n(p, n); }
inline void store_upto(float* p, int n, F32 v) {
  if (n == 16) return store(p, v);
  store_n(p, n, v);
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
