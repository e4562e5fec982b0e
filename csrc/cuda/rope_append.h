// Rotates the query and key heads of qkv in half-split pairs and writes keys and values to the cache.
//   (a, b) = (x[i], x[i + r/2])  ->  (a cos - b sin, b cos + a sin)   (Su et al., 2021)
// for i < r/2; what a head has beyond r passes as it is. Queries are rotated in place; the key and value
// columns of qkv are left as they were. With r = 0 keys and values are appended as they are.
#pragma once

#include "cuda/rows.h"

namespace lanner::cuda {

struct RopeAppendArgs {
  bf16* qkv;             // (rows, (H + 2 KH) D): query heads, key heads, value heads
  const float* cos_sin;  // (rows, r) cosines, then sines (rope_table); null where r is 0
  bf16* cache;           // page 0 of the layer: K [KH][32][D], then V [KH][32][D]
  int32_t page_bytes;    // from a page of the layer to the next
  int32_t n_heads, n_kv_heads, head_dim;
  int32_t rope_dim;             // r
  const int32_t* positions;     // (rows)
  const int32_t* token_seqs;    // (rows)
  const int32_t* block_tables;  // (S, max_pages)
  int32_t max_pages;
  RowCount rows;

  template <class F>
  void each_field(F&& field) {
    field("qkv", qkv), field("cos_sin", cos_sin), field("cache", cache), field("page_bytes", page_bytes);
    field("n_heads", n_heads), field("n_kv_heads", n_kv_heads), field("head_dim", head_dim);
    field("rope_dim", rope_dim), field("positions", positions), field("token_seqs", token_seqs);
    field("block_tables", block_tables), field("max_pages", max_pages), field("rows", rows);
  }
};

inline void check(const RopeAppendArgs& a) {
  const char* op = "rope_append";
  check_present(op, "qkv", a.qkv), check_present(op, "cache", a.cache);
  check_present(op, "positions", a.positions), check_present(op, "token_seqs", a.token_seqs);
  check_present(op, "block_tables", a.block_tables);
  check(a.n_heads >= 0, op, ": n_heads is ", a.n_heads, ", wanted at least 0");
  check_multiple(op, "n_kv_heads", a.n_kv_heads, 1);
  check_multiple(op, "head_dim", a.head_dim, 16);
  check(a.rope_dim >= 0 && a.rope_dim % 16 == 0 && a.rope_dim <= a.head_dim, op, ": rope_dim is ", a.rope_dim,
        ", wanted 0 or a multiple of 16 up to ", a.head_dim);
  if (a.rope_dim > 0) check_present(op, "cos_sin", a.cos_sin);
  check_multiple(op, "page_bytes", a.page_bytes, 16);
  const int64_t least = int64_t{4} * kPagePositions * a.n_kv_heads * a.head_dim;
  check(a.page_bytes >= least, op, ": page_bytes is ", a.page_bytes, ", wanted at least ", least);
  check_multiple(op, "max_pages", a.max_pages, 1);
}
void rope_append(const RopeAppendArgs& args, const Bounds& bounds);

}  // namespace lanner::cuda
