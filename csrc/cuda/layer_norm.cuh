#include "cuda/layer_norm.h"

namespace lanner::cuda {

// --- kernels ----------------------------------------------------------------------------------------------
// A block for each row, which stays in registers: the variance is the mean square around the mean, without
// cancellation.
template <int V>
LANNER_KERNEL(kNormThreads, 2)
layer_norm_kernel(LayerNormArgs args) {
  begin_kernel();
  const int64_t row = block_x();
  if (row >= *args.rows.n) return;
  const int cols = args.cols;
  float* of_warps = shared_memory<float>();
  BlockRow<V> x;
  x.load_from(args.x + row * cols, cols);
  const float mean = x.sum(cols, of_warps, [](float v) { return v; }) / cols;
  const float sum = x.sum(cols, of_warps + kWarpSize, [&](float v) { return square(v - mean); });
  const float factor = rsqrt_approx(sum / cols + args.eps);
  x.store_to(args.out + row * cols, cols, [&](float (&v)[8], int col) {
    float weight[8], bias[8] = {};
    load(args.weight + col, weight);
    if (args.bias) load(args.bias + col, bias);
    LANNER_UNROLL
    for (int i = 0; i < 8; ++i) v[i] = (v[i] - mean) * factor * weight[i] + bias[i];
  });
}

// --- launchers --------------------------------------------------------------------------------------------
void layer_norm(const LayerNormArgs& args, const Bounds& bounds) {
  const int n_rows = args.rows.bound(bounds);
  if (n_rows == 0) return;
  with_row_shape(args.cols, [&](auto vectors, int threads) {
    launch(layer_norm_kernel<vectors()>, {{n_rows}, threads, 2 * kWarpSize * sizeof(float), true},
           bounds.stream, args);
  });
}

}  // namespace lanner::cuda
