// Keys and values of the layers of one group in pages of 32 positions.
//
//   K of a page  [KH][2][D][16]   positions in the lanes: scores need no sum across lanes
//   V of a page  [KH][32][Dv]     D in the lanes, padded to Dv = a multiple of 16
//
// q8: elements are int8 codes, and behind them stand float32 scales of K [KH][32] and V [KH][32], one for the
// key and one for the value of a token and head:
//
//   code = round(x * (127 / max|x|)), scale = max|x| / 127, or NaN where x is infinite or NaN
//
// Codes enter products as the integers that they are. The scale of a key multiplies the finished score; the
// scale of a value multiplies the weight p, of which the sum of weights has the unscaled one.
//
// Pages belong to sequences through the block tables of the group; the cache itself knows no sequence. What
// all layers keep in a page lies together: memory becomes resident when a page is first written, so a long
// context costs nothing until it is used, and can do so in pieces of 2 MB, which spare the attention of a
// long context a walk through page tables for every page. Layers that see the same window of positions are a
// group: what lies behind their window they give back together.
#pragma once

#include <cstring>

#include "core/memory.h"
#include "ops/op.h"

namespace lanner {

inline constexpr int kPagePositions = 32;
inline constexpr int kLanes = 16;
inline constexpr int kMaxHeadDim =
    512;  // a strip of 96 rows of this width takes 0.8 of a thread's 4 MB of scratch

inline constexpr int kMaxGroups = 16;  // models have one window or two

enum class KvType : uint8_t { F32, F16, Q8 };

constexpr size_t element_bytes(KvType type) { return type == KvType::F32 ? 4 : type == KvType::F16 ? 2 : 1; }

inline KvType kv_type_named(const std::string& name) {
  check(name == "f32" || name == "f16" || name == "q8", "KvCache: format is ", name,
        ", wanted f16, f32 or q8");
  return name == "f32" ? KvType::F32 : name == "f16" ? KvType::F16 : KvType::Q8;
}

struct KvCache {
  KvType type;
  int32_t n_layers, n_pages, n_kv_heads, head_dim;
  int32_t group;                  // its rows of the step's block tables
  int32_t value_dim;              // D rounded up to 16
  size_t key_bytes, value_bytes;  // of one head of one page
  size_t scale_bytes;             // of the keys of one head of one page, or of the values; 0 but for q8
  Memory memory;

  KvCache(KvType t, int32_t layers, int32_t pages, int32_t kv_heads, int32_t dim, int32_t of_group = 0)
      : type(t),
        n_layers(layers),
        n_pages(pages),
        n_kv_heads(kv_heads),
        head_dim(dim),
        group(of_group),
        value_dim(static_cast<int32_t>(round_up(static_cast<size_t>(dim), kLanes))) {
    check(layers > 0 && pages > 0 && kv_heads > 0 && dim > 0,
          "KvCache: layers, pages, heads and head_dim are ", layers, ", ", pages, ", ", kv_heads, ", ", dim,
          ", wanted positive numbers");
    check(group >= 0 && group < kMaxGroups, "KvCache: group is ", group, ", wanted 0 to ", kMaxGroups - 1);
    key_bytes = size_t{kPagePositions} * head_dim * element_bytes(t);
    value_bytes = size_t{kPagePositions} * value_dim * element_bytes(t);
    scale_bytes = t == KvType::Q8 ? kPagePositions * sizeof(float) : 0;
    size_t n_bytes = head_bytes();
    const bool overflows = __builtin_mul_overflow(n_bytes, size_t(kv_heads), &n_bytes) ||
                           __builtin_mul_overflow(n_bytes, size_t(layers), &n_bytes) ||
                           __builtin_mul_overflow(n_bytes, size_t(pages), &n_bytes);
    check(!overflows, "KvCache: ", layers, " layers, ", pages, " pages, ", kv_heads, " heads of ", dim,
          " are more than memory can address");
    memory = Memory(n_bytes);
    memory.advise_huge();
  }

  size_t head_bytes() const { return key_bytes + value_bytes + 2 * scale_bytes; }
  size_t layer_page_bytes() const { return n_kv_heads * head_bytes(); }
  size_t page_bytes() const { return n_layers * layer_page_bytes(); }
  std::byte* key(int layer, int page, int head) const {
    return memory.data() + (size_t(page) * n_layers + layer) * layer_page_bytes() + head * key_bytes;
  }
  std::byte* value(int layer, int page, int head) const {
    return key(layer, page, 0) + n_kv_heads * key_bytes + head * value_bytes;
  }
  float* key_scales(int layer, int page, int head) const {  // (32)
    return reinterpret_cast<float*>(key(layer, page, 0) + n_kv_heads * (key_bytes + value_bytes)) +
           head * kPagePositions;
  }
  float* value_scales(int layer, int page, int head) const {  // (32)
    return key_scales(layer, page, n_kv_heads + head);
  }

  // What all layers keep in page `source`, also in page `target`.
  void copy_page(int32_t source, int32_t target) const {
    for (int32_t page : {source, target})
      check(page >= 0 && page < n_pages, "copy_page: page is ", page, ", the cache has ", n_pages);
    if (source != target) std::memcpy(key(0, target, 0), key(0, source, 0), page_bytes());
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
