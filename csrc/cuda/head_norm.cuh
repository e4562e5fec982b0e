#include "cuda/head_norm.h"

namespace lanner::cuda {

// --- kernels ----------------------------------------------------------------------------------------------
// A head lies in as many lanes as have 8 columns of it each, rounded up to a power of two, V times: 16 lanes
// for a head of 128.
inline constexpr int kHeadNormThreads = 128;

LANNER_BOTH int head_lanes(int head_dim) {
  int n = 1;
  while (n < kWarpSize && n * 8 < head_dim) n *= 2;
  return n;
}

template <int V>
LANNER_KERNEL(kHeadNormThreads, 1)
head_norm_kernel(HeadNormArgs args) {
  begin_kernel();
  const int n_lanes = head_lanes(args.head_dim);
  const int64_t row = block_y();
  if (row >= *args.rows.n) return;
  const int index = block_x() * kHeadNormThreads + thread_index(), head = index / n_lanes;
  const int dim = args.head_dim, first = index % n_lanes * 8, n_normed = args.n_heads + args.n_kv_heads;
  bf16* x = args.qkv + (row * (n_normed + args.n_kv_heads) + head) * dim;
  float v[V][8], sum = 0;
  bool has[V];
  LANNER_UNROLL
  for (int k = 0; k < V; ++k) {
    const int col = k * n_lanes * 8 + first;
    has[k] = head < n_normed && col < dim;
    if (!has[k]) continue;
    load(x + col, v[k]);
    LANNER_UNROLL
    for (int i = 0; i < 8; ++i) sum += v[k][i] * v[k][i];
  }
  for (int mask = n_lanes / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  const float factor = rsqrt_approx(sum / dim + args.eps);
  const float* weight = head < args.n_heads ? args.q_weight : args.k_weight;
  LANNER_UNROLL
  for (int k = 0; k < V; ++k) {
    if (!has[k]) continue;
    const int col = k * n_lanes * 8 + first;
    float w[8];
    load(weight + col, w);
    LANNER_UNROLL
    for (int i = 0; i < 8; ++i) v[k][i] *= factor * w[i];
    store(x + col, v[k]);
  }
}

// --- launchers --------------------------------------------------------------------------------------------
void head_norm(const HeadNormArgs& args, const Bounds& bounds) {
  const int n_rows = args.rows.bound(bounds);
  if (n_rows == 0) return;
  const int n_lanes = head_lanes(args.head_dim);
  const int n_threads = (args.n_heads + args.n_kv_heads) * n_lanes;
  const LaunchShape shape{{ceil_div(n_threads, kHeadNormThreads), n_rows}, kHeadNormThreads, 0, true};
  launch(args.head_dim <= n_lanes * 8 ? head_norm_kernel<1> : head_norm_kernel<2>, shape, bounds.stream,
         args);
}

}  // namespace lanner::cuda
