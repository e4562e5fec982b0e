// Rotation of the heads of qkv and the write of keys and values to their pages (layout in ops/kv_cache.h).
#pragma once

#include "ops/rope_append.h"
#include "simd/vec.h"

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

// n (a multiple of 16) cache elements from floats.
inline void to_cache(const float* from, int n, Format format, std::byte* to) {
  if (format == Format::F32) {
    std::memcpy(to, from, sizeof(float) * n);
  } else {
    for (int i = 0; i < n; i += 16) store_f16(to + 2 * i, load(from + i));
  }
}

// One position of [2][D][16]: a column of D elements, 16 apart.
template <int size>
inline void scatter(const std::byte* from, int dim, int position, std::byte* page) {
  std::byte* to = page + (static_cast<size_t>(position / kLanes) * dim * kLanes + position % kLanes) * size;
  for (int i = 0; i < dim; ++i, from += size, to += kLanes * size) std::memcpy(to, from, size);
}

inline void append_key(const KvCache& c, const float* key, int position, std::byte* page) {
  alignas(64) std::byte element[sizeof(float) * kMaxHeadDim];
  to_cache(key, c.value_dim, c.format, element);
  if (c.format == Format::F16)
    scatter<2>(element, c.head_dim, position, page);
  else
    scatter<4>(element, c.head_dim, position, page);
}

void rope_append(const RopeAppendArgs& a, const Step& step, const Worker& worker, int begin, int end) {
  const KvCache& c = *a.cache;
  const int dim = c.head_dim, row_bytes = c.value_dim * static_cast<int>(info(c.format).bytes);
  alignas(64) float head[kMaxHeadDim] = {};  // lanes past head_dim stay zero
  for (int t = 0; t < step.n_tokens; ++t) {
    const int page =
        step.block_tables[step.token_seqs[t] * step.max_pages + step.positions[t] / kPagePositions];
    const int in_page = step.positions[t] % kPagePositions;
    const float* table = a.table.row(worker, t);
    for (int u = begin; u < end; ++u) {
      float* x = a.qkv.row(worker, t) + u * dim;
      const int kv = u - a.n_heads;
      if (u < a.n_heads) {
        rotate(x, table, dim / 2, x);
      } else if (kv < c.n_kv_heads) {
        rotate(x, table, dim / 2, head);
        append_key(c, head, in_page, c.key(a.layer, page, kv));
      } else {
        std::memcpy(head, x, sizeof(float) * dim);
        to_cache(head, c.value_dim, c.format,
                 c.value(a.layer, page, kv - c.n_kv_heads) + in_page * row_bytes);
      }
    }
  }
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
