#include "cuda/add.h"

namespace lanner::cuda {

// --- kernels ----------------------------------------------------------------------------------------------
LANNER_KERNEL(kElementThreads, 1)
add_kernel(AddArgs args) {
  begin_kernel();
  const int64_t i = first_element<8>(args.rows, args.cols);
  if (i < 0) return;
  float a[8], b[8];
  load(args.a + i, a), load(args.b + i, b);
  LANNER_UNROLL
  for (int k = 0; k < 8; ++k) a[k] += args.factor * b[k];
  store(args.out + i, a);
}

// --- launchers --------------------------------------------------------------------------------------------
void add(const AddArgs& args, const Bounds& bounds) {
  const int n_rows = args.rows.bound(bounds);
  if (n_rows > 0) launch(add_kernel, shape_of_elements(n_rows, args.cols, 8), bounds.stream, args);
}

}  // namespace lanner::cuda
