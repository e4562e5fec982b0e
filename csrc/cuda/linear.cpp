// What the kernels of `linear` share on the host: checks, and the choice between them.
#include "cuda/linear.h"

#include "cuda/planes.h"

namespace lanner::cuda {

namespace {

void check_qkv(const RopeAppend& q, int n) {
  check(q.n_heads > 0 && q.n_kv_heads > 0 && q.n_heads % q.n_kv_heads == 0, "linear: qkv has ", q.n_heads,
        " heads of q and ", q.n_kv_heads, " of k and v");
  check_multiple("linear", "qkv.head_dim", q.head_dim, kTileRows);
  check(q.rope_dim >= 0 && q.rope_dim <= q.head_dim && q.rope_dim % kTileRows == 0,
        "linear: qkv.rope_dim is ", q.rope_dim, ", wanted a multiple of ", kTileRows, " of at most ",
        q.head_dim);
  check(n == (q.n_heads + 2 * q.n_kv_heads) * q.head_dim, "linear: weight has ", n, " rows, wanted ",
        (q.n_heads + 2 * q.n_kv_heads) * q.head_dim, " for q, k and v");
  if (q.rope_dim > 0) check_present("linear", "qkv.cos_sin", q.cos_sin);
  check_present("linear", "qkv.positions", q.positions);
  check_present("linear", "qkv.token_seqs", q.token_seqs);
  check_present("linear", "qkv.block_tables", q.block_tables);
  check_present("linear", "qkv.cache", q.cache);
  check(q.max_pages > 0, "linear: qkv.max_pages is ", q.max_pages, ", wanted at least 1");
}

}  // namespace

void check(const LinearArgs& args) {
  check_present("linear", "x", args.x);
  check_weight("linear", "weight", args.weight);
  const int end = static_cast<int>(args.end);
  check(end >= 0 && end <= static_cast<int>(LinearEnd::kQkv), "linear: end is ", end, ", wanted 0 to 3");
  check(args.residual == nullptr || args.end == LinearEnd::kStore,
        "linear: residual is given to an end that adds none");
  check(args.norm_weight == nullptr || args.norm_eps > 0, "linear: norm_eps is ", args.norm_eps,
        ", wanted above 0");
  check_present("linear", args.end == LinearEnd::kLogits ? "logits" : "out",
                args.end == LinearEnd::kLogits ? static_cast<const void*>(args.logits) : args.out);
  if (args.end == LinearEnd::kGated)
    check_multiple("linear", "rows of a gated weight", args.weight.n, kTileRows);
  if (args.end == LinearEnd::kGated) check_activation("linear", args.function);
  if (args.end == LinearEnd::kQkv) check_qkv(args.qkv, args.weight.n);
}

int64_t linear_workspace(const Weight& w) {
  return w.type == WeightType::kBf16 ? 0 : planes_workspace_bytes(w);
}

void linear_skinny(const LinearArgs& args, const Bounds& bounds) {
  const int n = args.rows.bound(bounds);
  check(n <= kSkinnyTokens, "linear_skinny: a bound of ", n, " rows, wanted at most ", kSkinnyTokens);
  if (n > 0) (args.weight.type == WeightType::kBf16 ? linear_skinny_bf16 : linear_skinny_int)(args, bounds);
}

void linear(const LinearArgs& args, const Bounds& bounds) {
  (args.rows.bound(bounds) <= kSkinnyTokens ? linear_skinny : linear_tiled)(args, bounds);
}

}  // namespace lanner::cuda
