// The write of keys and values to their pages (layout in ops/kv_cache.h).
#pragma once

#include "ops/append.h"
#include "simd/vec.h"

namespace lanner::LANNER_ISA_NS {
namespace {

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

// A key or value head (value_dim floats, 0 past head_dim) to its place in a page.
inline void append_head(const KvCache& c, int layer, int page, int position, int head, const float* x) {
  if (head >= c.n_kv_heads) {
    std::byte* to = c.value(layer, page, head - c.n_kv_heads);
    return to_cache(x, c.value_dim, c.format,
                    to + position * c.value_dim * static_cast<int>(info(c.format).bytes));
  }
  alignas(64) std::byte element[sizeof(float) * kMaxHeadDim];
  to_cache(x, c.value_dim, c.format, element);
  if (c.format == Format::F16)
    scatter<2>(element, c.head_dim, position, c.key(layer, page, head));
  else
    scatter<4>(element, c.head_dim, position, c.key(layer, page, head));
}

void append(const AppendArgs& a, const Step& step, const Worker& worker, int begin, int end) {
  const KvCache& c = *a.cache;
  alignas(64) float head[kMaxHeadDim] = {};  // lanes past head_dim stay zero
  for (int t = 0; t < step.n_tokens; ++t) {
    const int page = page_of(c, step, t, a.cross), in_page = step.positions[t] % kPagePositions;
    for (int u = begin < a.n_heads ? a.n_heads : begin; u < end; ++u) {
      std::memcpy(head, a.kv.row(worker, t) + u * c.head_dim, sizeof(float) * c.head_dim);
      append_head(c, a.layer, page, in_page, u - a.n_heads, head);
    }
  }
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
