#include "cuda/add_positions.h"

namespace lanner::cuda {

// --- kernels ----------------------------------------------------------------------------------------------
LANNER_KERNEL(kElementThreads, 1)
add_positions_kernel(AddPositionsArgs args) {
  begin_kernel();
  const int col = (block_x() * kElementThreads + thread_index()) * 8;
  const int64_t row = block_y();
  if (row >= *args.rows.n || col >= args.cols) return;
  const int64_t from = int64_t{args.positions[row]} + args.offset;
  float x[8], y[8];
  load(args.x + row * args.cols + col, x), load(args.table + from * args.cols + col, y);
  LANNER_UNROLL
  for (int k = 0; k < 8; ++k) x[k] += y[k];
  store(args.out + row * args.cols + col, x);
}

// --- launchers --------------------------------------------------------------------------------------------
void add_positions(const AddPositionsArgs& args, const Bounds& bounds) {
  const int n_rows = args.rows.bound(bounds);
  if (n_rows == 0) return;
  const Grid grid{ceil_div(args.cols, kElementThreads * 8), n_rows};
  launch(add_positions_kernel, {grid, kElementThreads, 0, true}, bounds.stream, args);
}

}  // namespace lanner::cuda
