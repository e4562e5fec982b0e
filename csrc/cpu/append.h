// The write of keys and values to their pages (layout in ops/kv_cache.h).
#pragma once

#include <algorithm>
#include <bit>

#include "ops/append.h"
#include "simd/vec.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// Codes and their scale. A head of subnormal scale counts as zero; with an element that is infinite or NaN
// the scale is NaN, so that whatever is multiplied by it is seen to be none.
inline float to_codes(const float* from, int n, int8_t* to) {
  uint32_t bits = 0;  // those of positive floats, and of NaN above them, order as integers
  for (int i = 0; i < n; i += 16)
    bits = std::max(bits, std::bit_cast<uint32_t>(largest_magnitude(load(from + i), zero())));
  const float largest = std::bit_cast<float>(bits), scale = largest / 127.0f;
  const bool is_zero = scale < __FLT_MIN__;
  const F32 inverse = set1(is_zero ? 0.0f : 127.0f / largest);
  for (int i = 0; i < n; i += 16) store_i8(to + i, round_i32(load(from + i) * inverse));
  return is_zero ? 0.0f : largest <= __FLT_MAX__ ? scale : __builtin_nanf("");
}

// n (a multiple of 16) cache elements from floats; returns the scale of codes.
inline float to_cache(const float* from, int n, KvType type, std::byte* to) {
  if (type == KvType::Q8) return to_codes(from, n, reinterpret_cast<int8_t*>(to));
  if (type == KvType::F32)
    std::memcpy(to, from, sizeof(float) * n);
  else
    for (int i = 0; i < n; i += 16) store_f16(to + 2 * i, load(from + i));
  return 1.0f;
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
    head -= c.n_kv_heads;
    const size_t at = static_cast<size_t>(position) * c.value_dim * element_bytes(c.type);
    const float scale = to_cache(x, c.value_dim, c.type, c.value(layer, page, head) + at);
    if (c.type == KvType::Q8) c.value_scales(layer, page, head)[position] = scale;
    return;
  }
  alignas(64) std::byte element[sizeof(float) * kMaxHeadDim];
  const float scale = to_cache(x, c.value_dim, c.type, element);
  std::byte* keys = c.key(layer, page, head);
  switch (c.type) {
    case KvType::F32:
      return scatter<4>(element, c.head_dim, position, keys);
    case KvType::F16:
      return scatter<2>(element, c.head_dim, position, keys);
    case KvType::Q8:
      c.key_scales(layer, page, head)[position] = scale;
      return scatter<1>(element, c.head_dim, position, keys);
  }
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
