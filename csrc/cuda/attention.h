// out[t][h] = sum_j softmax_j(cap(scale * q[t][h] . k[j][h / group])) v[j][h / group], over the keys j of t's
// sequence that t sees: those up to its own position, the last `window` of them, or all.
//
// Two launchers on one argument struct. attention_prefill: any step. attention_decode: a step in which every
// sequence has one token, whose keys are split over blocks. Keys and values lie in pages of 32 positions.
#pragma once

#include "cuda/op.h"

namespace lanner::cuda {

struct AttentionArgs {
  const bf16* q;       // (T, at least H * D) in rows of q_stride: query heads come first, rotated
  bf16* out;           // (T, H * D)
  const bf16* cache;   // page 0 of the layer: K [KH][32][D], then V [KH][32][D]
  int32_t page_bytes;  // from a page of the layer to the next
  int32_t q_stride;
  int32_t n_heads, n_kv_heads, head_dim;
  float scale;
  float softcap;   // c: scores become c tanh(s / c); 0: they stay
  int32_t window;  // a query at i sees the keys at j with 0 <= i - j < window; 0: all up to its own
  bool causal;     // false: a query sees all positions of its sequence, and window is 0

  const StepCounts* counts;
  const int32_t* seq_starts;    // (S + 1); the tokens of a sequence are its last positions
  const int32_t* kv_lens;       // (S)
  const int32_t* block_tables;  // (S, max_pages); -1 where a page was given back, behind all windows
  int32_t max_pages;

  // Of attention_decode, for what its blocks leave to the last of them; null in attention_prefill.
  float* workspace;
  int64_t workspace_bytes;
  int32_t* counters;  // zero, and zero again after every launch
  int32_t n_counters;

  LANNER_BOTH int group_heads() const { return n_heads / n_kv_heads; }

  template <class F>
  void each_field(F&& field) {
    field("q", q), field("out", out), field("cache", cache), field("page_bytes", page_bytes);
    field("q_stride", q_stride), field("n_heads", n_heads), field("n_kv_heads", n_kv_heads);
    field("head_dim", head_dim), field("scale", scale), field("softcap", softcap), field("window", window);
    field("causal", causal), field("counts", counts), field("seq_starts", seq_starts);
    field("kv_lens", kv_lens), field("block_tables", block_tables), field("max_pages", max_pages);
    field("workspace", workspace), field("workspace_bytes", workspace_bytes), field("counters", counters);
    field("n_counters", n_counters);
  }
};

inline void check(const AttentionArgs& a) {
  const char* op = "attention";
  check(a.head_dim == 64 || a.head_dim == 128 || a.head_dim == 256, op, ": head_dim is ", a.head_dim,
        ", wanted 64, 128 or 256");
  check_multiple(op, "n_heads", a.n_heads, a.n_kv_heads > 0 ? a.n_kv_heads : 1);
  check(a.n_kv_heads > 0, op, ": n_kv_heads is ", a.n_kv_heads, ", wanted at least 1");
  check_multiple(op, "q_stride", a.q_stride, 8);
  check(a.q_stride >= a.n_heads * a.head_dim, op, ": q_stride is ", a.q_stride, ", wanted at least ",
        a.n_heads * a.head_dim);
  check_multiple(op, "page_bytes", a.page_bytes, 16);
  const int64_t least = int64_t{4} * kPagePositions * a.n_kv_heads * a.head_dim;
  check(a.page_bytes >= least, op, ": page_bytes is ", a.page_bytes, ", wanted at least ", least);
  check(a.scale > 0 && a.scale < 1e6f, op, ": scale is ", a.scale, ", wanted a positive number below 1e6");
  check(a.softcap >= 0 && a.softcap < 1e6f, op, ": softcap is ", a.softcap, ", wanted 0 to 1e6");
  check(a.window >= 0 && (a.causal || a.window == 0), op, ": window is ", a.window,
        a.causal ? ", wanted at least 0" : ", wanted 0 where attention is not causal");
  check(a.max_pages > 0, op, ": max_pages is ", a.max_pages, ", wanted at least 1");
  check_present(op, "q", a.q), check_present(op, "out", a.out), check_present(op, "cache", a.cache);
  check_present(op, "counts", a.counts), check_present(op, "seq_starts", a.seq_starts);
  check_present(op, "kv_lens", a.kv_lens), check_present(op, "block_tables", a.block_tables);
}

void attention_prefill(const AttentionArgs& args, const Bounds& bounds);
void attention_decode(const AttentionArgs& args, const Bounds& bounds);

// What attention_decode needs for a step within bounds.
struct AttentionWorkspace {
  int64_t n_bytes;
  int32_t n_counters;
};
AttentionWorkspace attention_workspace(const AttentionArgs& args, const Bounds& bounds);

}  // namespace lanner::cuda
