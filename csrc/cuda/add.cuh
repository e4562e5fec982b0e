#include "cuda/add.h"

namespace lanner::cuda {

// --- kernels ----------------------------------------------------------------------------------------------
// A thread adds 8 columns, what it loads at once.
inline constexpr int kAddThreads = 256;

LANNER_DEVICE uint32_t add_pairs(uint32_t a, uint32_t b) {
  const Float2 x = unpack_bf16(a), y = unpack_bf16(b);
  return pack_bf16(x.x + y.x, x.y + y.y);
}

LANNER_KERNEL(kAddThreads, 1) add_kernel(AddArgs args) {
  const int64_t i = (int64_t{block_x()} * kAddThreads + thread_index()) * 8;
  if (i >= int64_t{*args.rows.n} * args.cols) return;
  const Bytes16 a = load16(args.a + i), b = load16(args.b + i);
  store16(args.out + i, {add_pairs(a.x, b.x), add_pairs(a.y, b.y), add_pairs(a.z, b.z), add_pairs(a.w, b.w)});
}

// --- launchers --------------------------------------------------------------------------------------------
void add(const AddArgs& args, const Bounds& bounds) {
  const int64_t n = int64_t{args.rows.bound(bounds)} * args.cols / 8;
  const int n_blocks = static_cast<int>((n + kAddThreads - 1) / kAddThreads);
  launch(add_kernel, {{n_blocks}, kAddThreads}, bounds.stream, args);
}

}  // namespace lanner::cuda
