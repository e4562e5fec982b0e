#include "cuda/rope_append.h"

namespace lanner::cuda {

// --- kernels ----------------------------------------------------------------------------------------------
// A thread has 16 columns of a head: 8 and the 8 that are rotated with them, or 16 that are not.
inline constexpr int kRopeAppendThreads = 128;

// Places of the first and second 8 columns of piece i of a head.
struct Piece {
  int first, second;
  bool rotates;
};
LANNER_DEVICE Piece piece_of(int i, int rope_dim) {
  if (i < rope_dim / 16) return {8 * i, 8 * i + rope_dim / 2, true};
  return {16 * i, 16 * i + 8, false};
}

LANNER_KERNEL(kRopeAppendThreads, 1)
rope_append_kernel(RopeAppendArgs args) {
  begin_kernel();
  const int64_t row = block_y();
  const int dim = args.head_dim, per_head = dim / 16;
  const int n_heads = args.n_heads + 2 * args.n_kv_heads;
  const int index = block_x() * kRopeAppendThreads + thread_index(), head = index / per_head;
  if (row >= *args.rows.n || head >= n_heads) return;
  const int kv_head = head - args.n_heads;  // negative: of a query
  Piece piece = piece_of(index % per_head, args.rope_dim);
  if (kv_head >= args.n_kv_heads) piece.rotates = false;
  if (kv_head < 0 && !piece.rotates) return;

  bf16* x = args.qkv + (row * n_heads + head) * dim;
  float a[8], b[8];
  load(x + piece.first, a), load(x + piece.second, b);
  if (piece.rotates) {
    const float* angles = args.cos_sin + row * args.rope_dim + piece.first;
    float cosine[8], sine[8];
    load(angles, cosine), load(angles + args.rope_dim / 2, sine);
    LANNER_UNROLL
    for (int k = 0; k < 8; ++k) {
      const float first = a[k] * cosine[k] - b[k] * sine[k];
      b[k] = b[k] * cosine[k] + a[k] * sine[k];
      a[k] = first;
    }
  }
  if (kv_head >= 0) {
    const int position = args.positions[row];
    const int64_t page =
        args.block_tables[int64_t{args.token_seqs[row]} * args.max_pages + position / kPagePositions];
    // Heads of V follow those of K, in qkv as in a page.
    x = args.cache + page * (args.page_bytes / 2) +
        (kv_head * kPagePositions + position % kPagePositions) * dim;
  }
  store(x + piece.first, a), store(x + piece.second, b);
}

// --- launchers --------------------------------------------------------------------------------------------
void rope_append(const RopeAppendArgs& args, const Bounds& bounds) {
  const int n_rows = args.rows.bound(bounds);
  if (n_rows == 0) return;
  const int n_pieces = (args.n_heads + 2 * args.n_kv_heads) * (args.head_dim / 16);
  const Grid grid{ceil_div(n_pieces, kRopeAppendThreads), n_rows};
  launch(rope_append_kernel, {grid, kRopeAppendThreads, 0, true}, bounds.stream, args);
}

}  // namespace lanner::cuda
