// Keys and values of all layers in pages of 32 positions.
//
//   K of a page  [KH][2][D][16]   positions in the lanes: scores need no sum across lanes
//   V of a page  [KH][32][Dv]     D in the lanes, padded to Dv = a multiple of 16
//
// Pages belong to sequences through block tables; the cache itself knows no sequence. Memory becomes
// resident when a page is first written, so a long context costs nothing until it is used.
#pragma once

#include "core/dtype.h"
#include "core/memory.h"
#include "ops/op.h"

namespace lanner {

inline constexpr int kPagePositions = 32;
inline constexpr int kLanes = 16;
inline constexpr int kMaxHeadDim =
    512;  // a strip of 96 rows of this width takes 0.8 of a thread's 4 MB of scratch

struct KvCache {
  Format format;  // F16 or F32
  int32_t n_layers, n_pages, n_kv_heads, head_dim;
  int32_t value_dim;              // D rounded up to 16
  size_t key_bytes, value_bytes;  // of one head of one page
  Memory memory;

  KvCache(Format f, int32_t layers, int32_t pages, int32_t kv_heads, int32_t dim)
      : format(f),
        n_layers(layers),
        n_pages(pages),
        n_kv_heads(kv_heads),
        head_dim(dim),
        value_dim(static_cast<int32_t>(round_up(static_cast<size_t>(dim), kLanes))) {
    check(f == Format::F16 || f == Format::F32, "KvCache: format is ", info(f).name, ", wanted f16 or f32");
    check(layers > 0 && pages > 0 && kv_heads > 0 && dim > 0,
          "KvCache: layers, pages, heads and head_dim are ", layers, ", ", pages, ", ", kv_heads, ", ", dim,
          ", wanted positive numbers");
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

  size_t page_bytes() const { return size_t(n_layers) * n_kv_heads * (key_bytes + value_bytes); }
  std::byte* key(int layer, int page, int head) const {
    return memory.data() + (size_t(layer) * n_pages + page) * n_kv_heads * (key_bytes + value_bytes) +
           head * key_bytes;
  }
  std::byte* value(int layer, int page, int head) const {
    return key(layer, page, 0) + n_kv_heads * key_bytes + head * value_bytes;
  }
};

// The page that holds the position of a token, in the cache or in the cross cache.
inline int32_t page_of(const Step& step, int32_t token, bool cross) {
  const int32_t* tables = cross ? step.cross_tables : step.block_tables;
  const int32_t n_pages = cross ? step.max_cross_pages : step.max_pages;
  return tables[int64_t{step.token_seqs[token]} * n_pages + step.positions[token] / kPagePositions];
}

inline void check_head_dim(const char* op, const KvCache& c) {
  check(c.head_dim <= kMaxHeadDim, op, ": head_dim is ", c.head_dim, ", wanted at most ", kMaxHeadDim);
}

}  // namespace lanner
