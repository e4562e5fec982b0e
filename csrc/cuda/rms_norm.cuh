#include "cuda/rms_norm.h"

namespace lanner::cuda {

// --- kernels ----------------------------------------------------------------------------------------------
// A block for each row, which stays in registers between its sum and its output: read once, written once.
template <int V>
LANNER_KERNEL(kNormThreads, 2)
rms_norm_kernel(RmsNormArgs args) {
  begin_kernel();
  const int64_t row = block_x();
  if (row >= *args.rows.n) return;
  rms_norm_row<V>(args.x + row * args.cols, args.weight, args.out + row * args.cols, args.cols, args.eps);
}

// --- launchers --------------------------------------------------------------------------------------------
void rms_norm(const RmsNormArgs& args, const Bounds& bounds) {
  const int n_rows = args.rows.bound(bounds);
  if (n_rows == 0) return;
  with_row_shape(args.cols, [&](auto vectors, int threads) {
    launch(rms_norm_kernel<vectors()>, {{n_rows}, threads, kWarpSize * sizeof(float), true}, bounds.stream,
           args);
  });
}

}  // namespace lanner::cuda
