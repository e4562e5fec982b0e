// Writes keys and values to the cache as they are: positions were embedded, are in a bias, or there are none.
#pragma once

#include "ops/kv_cache.h"

namespace lanner {

struct AppendArgs {
  Rows<float> kv;  // (T, (H + 2 KH) D): query heads, which are passed over, key heads, value heads
  KvCache* cache;
  int32_t layer;
  int32_t n_heads;     // H, which may be 0
  bool cross = false;  // to the pages of cross_tables: the tokens are a source that others will attend to
};

inline void check(const AppendArgs& a) {
  const KvCache& c = *a.cache;
  check_head_dim("append", c);
  check_kind("append", "kv", a.kv, RowKind::kTokens);
  check(a.layer >= 0 && a.layer < c.n_layers, "append: layer is ", a.layer, ", the cache has ", c.n_layers);
  check(a.n_heads >= 0, "append: n_heads is ", a.n_heads, ", wanted a number that is not negative");
  check_cols("append", "kv", a.kv, (int64_t{a.n_heads} + 2 * c.n_kv_heads) * c.head_dim);
}
// A unit is one head of every token; those of queries have nothing to do, so that units are as in the matmul.
inline int units(const AppendArgs& a, const Step&) { return a.n_heads + 2 * a.cache->n_kv_heads; }
inline Cost cost(const AppendArgs& a, const Step& step) {
  const double n = 2.0 * step.n_tokens * a.cache->n_kv_heads * a.cache->head_dim;
  return {n * (4 + static_cast<double>(element_bytes(a.cache->type))), 0};
}

}  // namespace lanner
