// Rotates the query and key heads of qkv in half-split pairs and writes keys and values to the cache.
//   (a, b) = (x[i], x[i + r/2])  ->  (a cos - b sin, b cos + a sin)   (Su et al., 2021)
// for i < r/2, where the table has r columns; what a head has beyond r passes as it is. Queries are rotated
// in place; the key and value columns of qkv are left as they were.
#pragma once

#include "ops/kv_cache.h"

namespace lanner {

struct RopeAppendArgs {
  Rows<float> qkv;    // (T, (H + 2 KH) D): query heads, key heads, value heads
  Rows<float> table;  // (T, r <= D) cosines, then sines (rope_table)
  KvCache* cache;
  int32_t layer;
  int32_t n_heads;
};

inline void check(const RopeAppendArgs& a) {
  const KvCache& c = *a.cache;
  check_head_dim("rope_append", c);
  check_kind("rope_append", "qkv", a.qkv, RowKind::kTokens);
  check_kind("rope_append", "table", a.table, RowKind::kTokens);
  check(a.layer >= 0 && a.layer < c.n_layers, "rope_append: layer is ", a.layer, ", the cache has ",
        c.n_layers);
  check(a.n_heads > 0, "rope_append: n_heads is ", a.n_heads, ", wanted a positive number");
  check_cols("rope_append", "qkv", a.qkv, int64_t{a.n_heads + 2 * c.n_kv_heads} * c.head_dim);
  check(a.table.cols >= 2 && a.table.cols % 2 == 0 && a.table.cols <= c.head_dim, "rope_append: table has ",
        a.table.cols, " columns, wanted an even number up to ", c.head_dim);
}
// A unit is one head of every token.
inline int units(const RopeAppendArgs& a, const Step&) { return a.n_heads + 2 * a.cache->n_kv_heads; }
inline Cost cost(const RopeAppendArgs& a, const Step& step) {
  return {8.0 * step.n_tokens * a.qkv.cols, 3.0 * step.n_tokens * a.qkv.cols};
}

}  // namespace lanner
