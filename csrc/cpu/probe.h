// The three limits of a machine that every measured number stands beside.
#pragma once

#include "simd/vec.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// Reads n_bytes (a multiple of 512) once, with as little work per byte as there is.
float probe_read(const std::byte* data, size_t n_bytes) {
  const float* p = reinterpret_cast<const float*>(data);
  F32 a = zero(), b = zero(), c = zero(), d = zero();
  for (size_t i = 0; i + 64 <= n_bytes / 4; i += 64) {
    prefetch(p + i + 512), prefetch(p + i + 528), prefetch(p + i + 544), prefetch(p + i + 560);
    a = max(a, load(p + i)), b = max(b, load(p + i + 16));
    c = max(c, load(p + i + 32)), d = max(d, load(p + i + 48));
  }
  return hmax(max(max(a, b), max(c, d)));
}

// Copies n_bytes (a multiple of 256) between addresses that are multiples of 64, past the caches as softmax
// writes what it will not read again: on sets that have such stores, no line is read before it is written.
void probe_copy(const std::byte* from, std::byte* to, size_t n_bytes) {
  const float* p = reinterpret_cast<const float*>(from);
  float* q = reinterpret_cast<float*>(to);
  for (size_t i = 0; i + 64 <= n_bytes / 4; i += 64) {
    prefetch(p + i + 512), prefetch(p + i + 528), prefetch(p + i + 544), prefetch(p + i + 560);
    for (int k = 0; k < 64; k += 16) store_past_caches(q + i + k, load(p + i + k));
  }
  finish_stores();
}

// Multiply-adds done by n_rounds of independent fused multiply-adds in registers; enough chains to hide a
// latency of 4 on two pipes, few enough for 16 registers.
double probe_fma(int64_t n_rounds) {
  constexpr int kChains = kFloatTile;
  F32 acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = set1(static_cast<float>(i));
  const F32 x = set1(0.5f), y = set1(0.25f);
  for (int64_t round = 0; round < n_rounds; ++round)
    for (int i = 0; i < kChains; ++i) acc[i] = fma(acc[i], x, y);
  F32 sum = acc[0];
  for (int i = 1; i < kChains; ++i) sum = sum + acc[i];
  // A fixed point near 0.5 is never negative: the sum keeps the loop alive and adds nothing.
  return static_cast<double>(n_rounds) * kChains * 16 + (hsum(sum) < 0 ? 1 : 0);
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
