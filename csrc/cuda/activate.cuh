#include "cuda/activate.h"

namespace lanner::cuda {

// --- kernels ----------------------------------------------------------------------------------------------
// A grid row for each row of x: the division by the block is of 32 bits.
LANNER_KERNEL(kElementThreads, 1)
activate_kernel(ActivateArgs args) {
  begin_kernel();
  const int col = (block_x() * kElementThreads + thread_index()) * 8;
  const int64_t row = block_y();
  if (row >= *args.rows.n || col >= args.cols) return;
  float x[8];
  if (args.block == 0) {
    load(args.x + row * args.cols + col, x);
    LANNER_UNROLL
    for (int k = 0; k < 8; ++k) x[k] = activation(args.function, x[k]);
  } else {
    const bf16* gate = args.x + row * 2 * args.cols + col + col / args.block * args.block;
    float up[8];
    load(gate, x), load(gate + args.block, up);
    LANNER_UNROLL
    for (int k = 0; k < 8; ++k) x[k] = activation(args.function, x[k]) * up[k];
  }
  store(args.out + row * args.cols + col, x);
}

// --- launchers --------------------------------------------------------------------------------------------
void activate(const ActivateArgs& args, const Bounds& bounds) {
  const int n_rows = args.rows.bound(bounds);
  if (n_rows == 0) return;
  const Grid grid{ceil_div(args.cols, kElementThreads * 8), n_rows};
  launch(activate_kernel, {grid, kElementThreads, 0, true}, bounds.stream, args);
}

}  // namespace lanner::cuda
