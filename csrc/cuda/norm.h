// A row that a block keeps in registers, and its normalisation: of rms_norm, layer_norm and qk_norm.
#pragma once

#include "cuda/rows.h"

namespace lanner::cuda {

// A thread keeps V times 8 columns, of which 256 threads keep up to 16384: the widest models have that.
inline constexpr int kNormThreads = 256, kNormMostVectors = 8;
inline constexpr int kNormMostCols = kNormThreads * 8 * kNormMostVectors;

template <int V>
struct BlockRow {
  float x[V][8];

  LANNER_DEVICE static int col(int v) { return (v * block_threads() + thread_index()) * 8; }

  // Columns past the end are zero.
  LANNER_DEVICE void load_from(const bf16* row, int cols) {
    LANNER_UNROLL
    for (int v = 0; v < V; ++v) {
      if (col(v) < cols) {
        load(row + col(v), x[v]);
      } else {
        LANNER_UNROLL
        for (int i = 0; i < 8; ++i) x[v][i] = 0;
      }
    }
  }
  // f(x) summed over the columns there are, in every thread.
  template <class F>
  LANNER_DEVICE float sum(int cols, float* of_warps, F f) const {
    float sum = 0;
    LANNER_UNROLL
    for (int v = 0; v < V; ++v) {
      if (col(v) >= cols) continue;
      LANNER_UNROLL
      for (int i = 0; i < 8; ++i) sum += f(x[v][i]);
    }
    return block_sum(sum, of_warps);
  }
  // f(x, column) in place of x.
  template <class F>
  LANNER_DEVICE void store_to(bf16* row, int cols, F f) {
    LANNER_UNROLL
    for (int v = 0; v < V; ++v) {
      if (col(v) >= cols) continue;
      f(x[v], col(v));
      store(row + col(v), x[v]);
    }
  }
};

LANNER_DEVICE float square(float x) { return x * x; }

template <int V>
LANNER_DEVICE void rms_norm_row(const bf16* x, const float* weight, bf16* out, int cols, float eps) {
  BlockRow<V> row;
  row.load_from(x, cols);
  const float sum = row.sum(cols, shared_memory<float>(), square);
  const float factor = rsqrt_approx(sum / cols + eps);
  row.store_to(out, cols, [&](float (&v)[8], int col) {
    float w[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    if (weight) load(weight + col, w);
    LANNER_UNROLL
    for (int i = 0; i < 8; ++i) v[i] *= factor * w[i];
  });
}

// Calls run with the number of vectors a thread keeps of so many columns, and the threads that this takes.
template <class Run>
void with_row_shape(int cols, Run run) {
  const int n_vectors = cols / 8, threads = ceil_div(n_vectors, kWarpSize) * kWarpSize;
  const auto fits = [&](int v) { return n_vectors <= kNormThreads * v; };
  if (fits(1))
    run(std::integral_constant<int, 1>{}, threads);
  else if (fits(2))
    run(std::integral_constant<int, 2>{}, kNormThreads);
  else if (fits(4))
    run(std::integral_constant<int, 4>{}, kNormThreads);
  else
    run(std::integral_constant<int, kNormMostVectors>{}, kNormThreads);
}
inline void check_norm_cols(const char* op, const char* name, int64_t cols) {
  check_multiple(op, name, cols, 8);
  check(cols <= kNormMostCols, op, ": ", name, " is ", cols, ", wanted at most ", kNormMostCols);
}

}  // namespace lanner::cuda
