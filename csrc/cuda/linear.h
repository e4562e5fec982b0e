// out[t] = end(weight norm(x[t]) + bias): the product of every layer, with what stands around it.
//
//   norm:  x / sqrt(mean(x^2) + eps) * norm_weight, when norm_weight is given
//   end:   kStore  out[t][row] = y + residual[t][row]
//          kLogits logits[t][row] = y, float32
//          kGated  out[t][i] = function(gate[i]) * up[i]
//          kQkv    q rotated to out, k rotated and v to the KV cache
//
// Rows of kGated and kQkv are ordered so that what an end combines is rows g and g + 8 of a tile of 16: the
// accumulators of one lane. Bias is in the order of the rows. python/lanner/cuda/pack.py makes both orders.
//   kGated: tile m = gate rows 8 m + 0..7, then up rows 8 m + 0..7
//   kQkv:   heads of q, k, v; of a head of q or k, tile m < rope_dim / 16 = rows 8 m + 0..7, then
//           rope_dim / 2 + 8 m + 0..7, which are rotated together; all other rows as they are
#pragma once

#include "cuda/activations.h"
#include "cuda/weights.h"

namespace lanner::cuda {

enum class LinearEnd : int32_t { kStore, kLogits, kGated, kQkv };

// Of kQkv. A page of the cache is K (n_kv_heads, 32, head_dim), then V alike.
struct RopeAppend {
  int32_t n_heads, n_kv_heads, head_dim;
  int32_t rope_dim;          // the first columns of a head, which are rotated; 0: none
  const float* cos_sin;      // (rows, rope_dim): cosines of rope_dim / 2 angles, then their sines
  const int32_t* positions;  // as in StepArrays
  const int32_t* token_seqs;
  const int32_t* block_tables;  // (S, max_pages)
  int32_t max_pages;
  bf16* cache;

  template <class F>
  void each_field(F&& field) {
    field("n_heads", n_heads), field("n_kv_heads", n_kv_heads), field("head_dim", head_dim);
    field("rope_dim", rope_dim), field("cos_sin", cos_sin), field("positions", positions);
    field("token_seqs", token_seqs), field("block_tables", block_tables), field("max_pages", max_pages);
    field("cache", cache);
  }
};

struct LinearArgs {
  const bf16* x;  // (rows, k)
  Weight weight;
  const bf16* plain;         // or null: the weight as (n, k), rows in the same order, which an H100 prefers
  const float* norm_weight;  // (k) or null
  float norm_eps;
  const float* bias;     // (n padded to 16) or null
  const bf16* residual;  // (rows, n) or null, of kStore; may be out
  LinearEnd end;
  Activation function;  // of kGated
  RopeAppend qkv;       // of kQkv
  bf16* out;            // (rows, n), kGated (rows, n / 2), kQkv (rows, n_heads * head_dim)
  float* logits;        // (rows, n) of kLogits
  RowCount rows;
  std::byte* workspace;  // of quantized weights and 9 to 32 rows: what linear_workspace() says
  int64_t workspace_bytes;

  template <class F>
  void each_field(F&& field) {
    field("x", x), field("weight", weight), field("plain", plain), field("norm_weight", norm_weight),
        field("norm_eps", norm_eps);
    field("bias", bias), field("residual", residual), field("end", end), field("function", function);
    field("qkv", qkv), field("out", out), field("logits", logits), field("rows", rows);
    field("workspace", workspace), field("workspace_bytes", workspace_bytes);
  }
};

void check(const LinearArgs& args);

// The widest bucket of the kernels for few tokens.
inline constexpr int kSkinnyTokens = 32;

void linear(const LinearArgs& args, const Bounds& bounds);         // skinny or tiled, by the bound of rows
void linear_skinny(const LinearArgs& args, const Bounds& bounds);  // at most kSkinnyTokens
void linear_skinny_bf16(const LinearArgs& args, const Bounds& bounds);  // which is one of these, by the type
void linear_skinny_int(const LinearArgs& args, const Bounds& bounds);
void linear_tiled(const LinearArgs& args, const Bounds& bounds);  // any number

// Bytes that `linear` needs for its workspace; one serves all that run one after the other.
int64_t linear_workspace(const Weight& w);

}  // namespace lanner::cuda
