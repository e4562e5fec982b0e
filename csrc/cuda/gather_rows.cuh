#include "cuda/gather_rows.h"

namespace lanner::cuda {

// --- kernels ----------------------------------------------------------------------------------------------
LANNER_KERNEL(kElementThreads, 1)
gather_rows_kernel(GatherRowsArgs args) {
  begin_kernel();
  const int col = (block_x() * kElementThreads + thread_index()) * 8;
  const int64_t row = block_y();
  if (row >= *args.rows.n || col >= args.cols) return;
  const int64_t from = args.output_rows[row];
  store16(args.out + row * args.cols + col, load16(args.x + from * args.cols + col));
}

// --- launchers --------------------------------------------------------------------------------------------
void gather_rows(const GatherRowsArgs& args, const Bounds& bounds) {
  const int n_rows = args.rows.bound(bounds);
  if (n_rows == 0) return;
  const Grid grid{ceil_div(args.cols, kElementThreads * 8), n_rows};
  launch(gather_rows_kernel, {grid, kElementThreads, 0, true}, bounds.stream, args);
}

}  // namespace lanner::cuda
