// Keys and values of the layers of one group in pages of 32 positions.
//
//   K of a page  [KH][2][D][16]   positions in the lanes: scores need no sum across lanes
//   V of a page  [KH][32][Dv]     D in the lanes, padded to Dv = a multiple of 16
//
// Pages belong to sequences through the block tables of the group; the cache itself knows no sequence. Memory
// becomes resident when a page is first written, so a long context costs nothing until it is used. Layers
// that see the same window of positions are a group: what lies behind their window they give back together.
#pragma once

#include <cstring>

#include "core/dtype.h"
#include "core/memory.h"
#include "ops/op.h"

namespace lanner {

inline constexpr int kPagePositions = 32;
inline constexpr int kLanes = 16;
inline constexpr int kMaxHeadDim =
    512;  // a strip of 96 rows of this width takes 0.8 of a thread's 4 MB of scratch

inline constexpr int kMaxGroups = 16;  // models have one window or two

struct KvCache {
  Format format;  // F16 or F32
  int32_t n_layers, n_pages, n_kv_heads, head_dim;
  int32_t group;                  // its rows of the step's block tables
  int32_t value_dim;              // D rounded up to 16
  size_t key_bytes, value_bytes;  // of one head of one page
  Memory memory;

  KvCache(Format f, int32_t layers, int32_t pages, int32_t kv_heads, int32_t dim, int32_t of_group = 0)
      : format(f),
        n_layers(layers),
        n_pages(pages),
        n_kv_heads(kv_heads),
        head_dim(dim),
        group(of_group),
        value_dim(static_cast<int32_t>(round_up(static_cast<size_t>(dim), kLanes))) {
    check(f == Format::F16 || f == Format::F32, "KvCache: format is ", info(f).name, ", wanted f16 or f32");
    check(layers > 0 && pages > 0 && kv_heads > 0 && dim > 0,
          "KvCache: layers, pages, heads and head_dim are ", layers, ", ", pages, ", ", kv_heads, ", ", dim,
          ", wanted positive numbers");
    check(group >= 0 && group < kMaxGroups, "KvCache: group is ", group, ", wanted 0 to ", kMaxGroups - 1);
    key_bytes = size_t{kPagePositions} * head_dim * info(f).bytes;
    value_bytes = size_t{kPagePositions} * value_dim * info(f).bytes;
    size_t n_bytes = key_bytes + value_bytes;
    const bool overflows = __builtin_mul_overflow(n_bytes, size_t(kv_heads), &n_bytes) ||
                           __builtin_mul_overflow(n_bytes, size_t(layers), &n_bytes) ||
                           __builtin_mul_overflow(n_bytes, size_t(pages), &n_bytes);
    check(!overflows, "KvCache: ", layers, " layers, ", pages, " pages, ", kv_heads, " heads of ", dim,
          " are more than memory can address");
    memory = Memory(n_bytes);
  }

  size_t layer_page_bytes() const { return n_kv_heads * (key_bytes + value_bytes); }
  size_t page_bytes() const { return n_layers * layer_page_bytes(); }
  std::byte* key(int layer, int page, int head) const {
    return memory.data() + (size_t(layer) * n_pages + page) * layer_page_bytes() + head * key_bytes;
  }
  std::byte* value(int layer, int page, int head) const {
    return key(layer, page, 0) + n_kv_heads * key_bytes + head * value_bytes;
  }

  // What all layers keep in page `source`, also in page `target`.
  void copy_page(int32_t source, int32_t target) const {
    for (int32_t page : {source, target})
      check(page >= 0 && page < n_pages, "copy_page: page is ", page, ", the cache has ", n_pages);
    for (int32_t layer = 0; layer < n_layers && source != target; ++layer)
      std::memcpy(key(layer, target, 0), key(layer, source, 0), layer_page_bytes());
  }
};

// The pages of a sequence in a cache, or in a cross cache.
inline const int32_t* pages_of(const KvCache& c, const Step& step, int32_t seq, bool cross) {
  return cross ? step.cross_tables + int64_t{seq} * step.max_cross_pages
               : step.block_tables + (int64_t{c.group} * step.max_seqs + seq) * step.max_pages;
}

// The page that holds the position of a token.
inline int32_t page_of(const KvCache& c, const Step& step, int32_t token, bool cross) {
  return pages_of(c, step, step.token_seqs[token], cross)[step.positions[token] / kPagePositions];
}

inline void check_head_dim(const char* op, const KvCache& c) {
  check(c.head_dim <= kMaxHeadDim, op, ": head_dim is ", c.head_dim, ", wanted at most ", kMaxHeadDim);
}

}  // namespace lanner
