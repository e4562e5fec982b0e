#include "cuda/qk_norm.h"

namespace lanner::cuda {

// --- kernels ----------------------------------------------------------------------------------------------
// A block for the queries of a row and one for its keys.
template <int V>
LANNER_KERNEL(kNormThreads, 2)
qk_norm_kernel(QkNormArgs args) {
  begin_kernel();
  const int64_t row = block_x();
  if (row >= *args.rows.n) return;
  const bool is_key = block_y() == 1;
  bf16* x = args.qkv + row * (args.q_cols + 2 * args.k_cols) + (is_key ? args.q_cols : 0);
  rms_norm_row<V>(x, is_key ? args.k_weight : args.q_weight, x, is_key ? args.k_cols : args.q_cols, args.eps);
}

// --- launchers --------------------------------------------------------------------------------------------
void qk_norm(const QkNormArgs& args, const Bounds& bounds) {
  const int n_rows = args.rows.bound(bounds);
  if (n_rows == 0) return;
  with_row_shape(args.q_cols > args.k_cols ? args.q_cols : args.k_cols, [&](auto vectors, int threads) {
    launch(qk_norm_kernel<vectors()>, {{n_rows, 2}, threads, kWarpSize * sizeof(float), true}, bounds.stream,
           args);
  });
}

}  // namespace lanner::cuda
