// One primitive each, its registers and its memory laid open.
#include <type_traits>

#include "cuda/runtime.h"
#include "cuda/runtime_sm90.h"
#include "planted.h"

namespace lanner::cuda {

LANNER_KERNEL(32, 1) load_matrices_kernel(const bf16* rows, uint32_t* out, int n_matrices, bool transposed) {
  bf16* shared = shared_memory<bf16>();
  const int lane = lane_index();
  store16(shared + 8 * lane, load16(rows + 8 * lane));
  sync_warp();
  if (n_matrices == 4) {
    uint32_t r[4];
    transposed ? load_matrices_transposed(r, shared + 8 * lane) : load_matrices(r, shared + 8 * lane);
    for (int i = 0; i < 4; ++i) out[4 * lane + i] = r[i];
  } else {
    uint32_t r[2];
    transposed ? load_matrices_transposed(r, shared + 8 * lane) : load_matrices(r, shared + 8 * lane);
    for (int i = 0; i < 2; ++i) out[2 * lane + i] = r[i];
  }
}

// Of bf16 where sums are float, of bytes where they are integers.
template <class Sum>
LANNER_KERNEL(32, 1)
mma_kernel(const uint32_t* a, const uint32_t* b, Sum* d) {
  const int lane = lane_index();
  uint32_t x[4], y[2];
  Sum z[4];
  for (int i = 0; i < 4; ++i) x[i] = a[4 * lane + i], z[i] = d[4 * lane + i];
  for (int i = 0; i < 2; ++i) y[i] = b[2 * lane + i];
  if constexpr (std::is_same_v<Sum, float>)
    mma_bf16(z, x, y);
  else
    mma_int8(z, x, y);
  for (int i = 0; i < 4; ++i) d[4 * lane + i] = z[i];
}

LANNER_KERNEL(32, 1)
load_tile_kernel(LANNER_GRID_CONSTANT const TensorMap map, bf16* out, int box_rows, int row, int column) {
  bf16* tile = shared_memory<bf16>();
  Barrier* barrier = reinterpret_cast<Barrier*>(tile + box_rows * kTileColumns);
  if (lane_index() == 0) {
    barrier_init(barrier, 1);
    fence_barrier_init();
    barrier_arrive_expect(barrier, static_cast<uint32_t>(box_rows * kTileColumns * 2));
    load_tile(tile, &map, barrier, row, column);
  }
  sync_warp();
  barrier_wait(barrier, 0);
  for (int i = lane_index(); i < box_rows * kTileColumns; i += kWarpSize) out[i] = tile[i];
}

void run_load_matrices(const bf16* rows, uint32_t* out, int n_matrices, bool transposed) {
  launch(load_matrices_kernel, {{1}, 32, 512}, nullptr, rows, out, n_matrices, transposed);
}
void run_mma(const uint32_t* a, const uint32_t* b, float* d) {
  launch(mma_kernel<float>, {{1}, 32, 0}, nullptr, a, b, d);
}
void run_mma_int8(const uint32_t* a, const uint32_t* b, int32_t* d) {
  launch(mma_kernel<int32_t>, {{1}, 32, 0}, nullptr, a, b, d);
}
void run_load_tile(const bf16* matrix, bf16* out, int rows, int columns, int box_rows, int row, int column) {
  launch(load_tile_kernel, {{1}, 32, static_cast<size_t>(box_rows * 128 + 8)}, nullptr,
         make_tensor_map(matrix, rows, columns, box_rows), out, box_rows, row, column);
}

}  // namespace lanner::cuda
