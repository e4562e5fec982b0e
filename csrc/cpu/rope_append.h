// Rotation of the heads of qkv, and the write of keys and values to the cache.
#pragma once

#include "cpu/append.h"
#include "ops/rope_append.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// Half-split pairs (i, i + half): table holds half cosines, then half sines.
inline void rotate(const float* x, const float* table, int half, float* out) {
  for (int i = 0; i < half; ++i) {
    const float a = x[i], b = x[half + i], c = table[i], s = table[half + i];
    out[i] = a * c - b * s;
    out[half + i] = b * c + a * s;
  }
}

void rope_append(const RopeAppendArgs& a, const Step& step, const Worker& worker, int begin, int end) {
  const KvCache& c = *a.cache;
  const int dim = c.head_dim, half = a.table.cols / 2;
  alignas(64) float head[kMaxHeadDim] = {};  // lanes past head_dim stay zero
  for (int t = 0; t < step.n_tokens; ++t) {
    const int page = page_of(c, step, t, false), in_page = step.positions[t] % kPagePositions;
    const float* table = a.table.row(worker, t);
    for (int u = begin; u < end; ++u) {
      float* x = a.qkv.row(worker, t) + u * dim;
      const int kv = u - a.n_heads;
      if (kv < 0) {
        rotate(x, table, half, x);
        continue;
      }
      std::memcpy(head, x, sizeof(float) * dim);
      if (kv < c.n_kv_heads) rotate(x, table, half, head);
      append_head(c, a.layer, page, in_page, kv, head);
    }
  }
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
