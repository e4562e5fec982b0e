// d = a b^T by mma over a ring of two asynchronously copied tiles, right as variant 0 and wrong in one way as
// others.
#include "cuda/runtime.h"
#include "planted.h"

namespace lanner::cuda {

// Tiles of 64 rows of a and of b, 64 columns of k; four warps have 16 rows of a each.
inline constexpr int kGemmTile = 64, kGemmThreads = 128, kGemmStages = 2;
inline constexpr int kGemmTileElements = kGemmTile * kGemmTile;
inline constexpr size_t kGemmSharedBytes = 2 * kGemmStages * kGemmTileElements * sizeof(bf16);

// The 16-byte chunk c of row r of a tile.
template <GemmVariant variant>
LANNER_DEVICE bf16* gemm_chunk(bf16* tile, int r, int c) {
  return tile + r * kGemmTile + (variant == GemmVariant::no_swizzle ? c : c ^ (r % 8)) * 8;
}

template <GemmVariant variant>
LANNER_DEVICE void gemm_copy(bf16* tile, const bf16* matrix, int first_row, int n_rows, int k, int first_k) {
  for (int i = thread_index(); i < kGemmTile * 8; i += kGemmThreads) {
    const int r = i / 8, c = i % 8, row = first_row + r;
    const bool valid = row < n_rows;
    copy_async16(gemm_chunk<variant>(tile, r, c), matrix + int64_t{valid ? row : 0} * k + first_k + 8 * c,
                 valid);
  }
}

template <GemmVariant variant>
LANNER_KERNEL(kGemmThreads, 1)
planted_gemm_kernel(GemmArgs g) {
  bf16* ring = shared_memory<bf16>();
  const int lane = lane_index(), warp = thread_index() / kWarpSize;
  const int first_m = block_y() * kGemmTile, first_n = block_x() * kGemmTile, n_steps = g.k / kGemmTile;
  auto copy = [&](int step) {
    bf16* tiles = ring + step % kGemmStages * 2 * kGemmTileElements;
    if (step < n_steps) {
      gemm_copy<variant>(tiles, g.a, first_m, g.m, g.k, step * kGemmTile);
      gemm_copy<variant>(tiles + kGemmTileElements, g.b, first_n, g.n, g.k, step * kGemmTile);
    }
    copy_async_commit();
  };
  float d[8][4] = {};
  copy(0);
  for (int step = 0; step < n_steps; ++step) {
    copy(step + 1);
    copy_async_wait<variant == GemmVariant::weak_wait ? 2 : 1>();
    if (variant != GemmVariant::no_barrier_after_wait) sync_block();
    bf16* a_tile = ring + step % kGemmStages * 2 * kGemmTileElements;
    bf16* b_tile = a_tile + kGemmTileElements;
    for (int k = 0; k < kGemmTile / 8; k += 2) {
      uint32_t a[4];
      load_matrices(a, gemm_chunk<variant>(a_tile, 16 * warp + lane % 16, k + lane / 16));
      for (int n = 0; n < 8; ++n) {
        uint32_t b[2];
        const int row = variant == GemmVariant::wrong_fragment ? 8 * n + (lane + 1) % 8 : 8 * n + lane % 8;
        load_matrices(b, gemm_chunk<variant>(b_tile, row, k + lane / 8 % 2));
        mma_bf16(d[n], a, b);
      }
    }
    if (variant != GemmVariant::no_barrier_before_refill) sync_block();
  }
  for (int n = 0; n < 8; ++n)
    for (int i = 0; i < 4; ++i) {
      const int row = first_m + 16 * warp + lane / 4 + i / 2 * 8,
                column = first_n + 8 * n + lane % 4 * 2 + i % 2;
      if ((row < g.m || variant == GemmVariant::store_past_end) && column < g.n)
        g.d[int64_t{row} * g.n + column] = d[n][i];
    }
}

void planted_gemm(GemmVariant variant, const GemmArgs& g) {
  const LaunchShape shape = {{(g.n + kGemmTile - 1) / kGemmTile, (g.m + kGemmTile - 1) / kGemmTile},
                             kGemmThreads,
                             variant == GemmVariant::short_shared ? kGemmSharedBytes - 16 : kGemmSharedBytes};
  for_variant<GemmVariant>(variant, [&](auto v) { launch(planted_gemm_kernel<v.value>, shape, nullptr, g); });
}

}  // namespace lanner::cuda
