// out[T, N] = x[T, K] W^T on tensor cores, for steps of more tokens than the skinny kernel serves.
//
// A block has 4 warps and a tile of 128 weight rows by 128 tokens: a warp's 64 x 64 part needs 8 loads of 16
// bytes a lane for 32 mma, and its 128 accumulators leave room for the operands of this step and the next.
// Both operands lie in shared memory as lanes load them (weights.h), a warp 512 consecutive bytes: no bank
// conflict, no swizzle, no ldmatrix. A stage is 32 k of bf16 weights, 64 of quantized ones, which are made
// bf16 in registers; there the warps lie along rows alone, so that no weight is made twice. The ring of
// stages is at most 49 KB, so that two blocks share a multiprocessor of any architecture, and one computes
// while the other waits. Steps of at most 64 tokens take tiles of 64 x 64, where weights are made twice.
#include "cuda/linear_results.h"
#include "cuda/linear_sm90.h"
#include "cuda/tile_order.h"
#include "cuda/weights.h"

namespace lanner::cuda {

// --- kernels ----------------------------------------------------------------------------------------------
template <WeightType type_, int kRows_>
struct TiledShape {
  static constexpr WeightType type = type_;
  static constexpr int kRows = kRows_, kTokens = kRows_;
  static constexpr int kThreads = 128, kWarps = 4;
  static constexpr int kWarpsByRow = type == WeightType::kBf16 || kRows < 128 ? 2 : 4;
  static constexpr int kWarpRows = kRows / kWarpsByRow, kWarpTokens = kTokens * kWarpsByRow / kWarps;
  static constexpr int kA = kWarpRows / 16, kB = kWarpTokens / 8;  // operands of a warp
  static constexpr int kGroups = type == WeightType::kBf16 ? 1 : 2, kSteps = 2 * kGroups;  // of a stage
  static constexpr int kLoads = type == WeightType::kBf16 ? 2 : unit_loads(type);  // 512 bytes, of 16 rows

  // Of a stage: codes [tile of 16 rows][load], tokens [group of 32 k][token][32], scales [tile].
  static constexpr int kTiles = kRows / 16;
  static constexpr int kCodeBytes = kTiles * kLoads * kLoadBytes;
  static constexpr int kTokenBytes = kTokens * kGroups * 64;
  static constexpr int kScaleBytes = kTiles * unit_scale_bytes(type);
  static constexpr int kStageBytes = kCodeBytes + kTokenBytes + kScaleBytes;
  static constexpr int kStages = 49 * 1024 / kStageBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes;

  using WarpResults = Results<kWarpTokens / 2, kWarpRows, 2>;
  static_assert(kWarps * WarpResults::kBytes <= kSharedBytes);
};

// Fills stages: 128 threads copy 2048 bytes at once, so that each has its own places in memory and in the
// stage.
template <class Shape>
struct TiledCopies {
  static constexpr int kAtOnce = Shape::kThreads * 16;
  static constexpr int kOfCodes = Shape::kCodeBytes / kAtOnce, kOfTokens = Shape::kTokens / 32;
  static constexpr int kStageCodes = Shape::kLoads * kLoadBytes;  // of 16 rows
  const char* codes[kOfCodes];
  const char* tokens[kOfTokens];
  const char* scales;

  // Rows and tokens beyond the last are copies of it, and their results are dropped.
  LANNER_DEVICE TiledCopies(const LinearArgs& args, int row0, int token0, int n_tokens) {
    const Weight& w = args.weight;
    const int i = thread_index(), last_tile = n_tiles(w) - 1;
    LANNER_UNROLL
    for (int c = 0; c < kOfCodes; ++c) {
      const int at = c * kAtOnce + i * 16;
      const int tile = row0 / 16 + at / kStageCodes;
      codes[c] = static_cast<const char*>(w.codes) +
                 int64_t{tile < last_tile ? tile : last_tile} * n_units(w) * unit_code_bytes(Shape::type) +
                 at % kStageCodes;
    }
    LANNER_UNROLL
    for (int c = 0; c < kOfTokens; ++c) {
      const int token = token0 + 32 * c + i / 4;
      tokens[c] =
          reinterpret_cast<const char*>(args.x + int64_t{token < n_tokens ? token : n_tokens - 1} * w.k) +
          i % 4 * 16;
    }
    if constexpr (Shape::kScaleBytes > 0) {
      constexpr int kTileScales = unit_scale_bytes(Shape::type);
      const int tile = row0 / 16 + i * 16 / kTileScales;
      scales = static_cast<const char*>(w.scales) +
               int64_t{tile < last_tile ? tile : last_tile} * n_units(w) * kTileScales + i * 16 % kTileScales;
    }
  }

  // `valid` is false beyond the last stage: zeros come, and nothing is read.
  LANNER_DEVICE void issue(char* stage, int step, bool valid) const {
    char* to = stage + thread_index() * 16;
    LANNER_UNROLL
    for (int c = 0; c < kOfCodes; ++c)
      copy_async16(to + c * kAtOnce, codes[c] + int64_t{step} * kStageCodes, valid);
    LANNER_UNROLL
    for (int j = 0; j < Shape::kGroups; ++j) {
      LANNER_UNROLL
      for (int c = 0; c < kOfTokens; ++c)
        copy_async16(to + Shape::kCodeBytes + j * Shape::kTokens * 64 + c * kAtOnce,
                     tokens[c] + int64_t{step} * Shape::kGroups * 64 + j * 64, valid);
    }
    if constexpr (Shape::kScaleBytes > 0) {
      if (thread_index() < Shape::kScaleBytes / 16)
        copy_async16(to + Shape::kCodeBytes + Shape::kTokenBytes,
                     scales + int64_t{step} * unit_scale_bytes(Shape::type), valid);
    }
    copy_async_commit();
  }
};

// What a warp multiplies: weights of one step of 16 k, made while the step before is multiplied, and tokens
// of 32 k, each replaced as soon as it has been used.
template <class Shape>
struct TiledOperands {
  uint32_t a[2][Shape::kA][4];
  Bytes16 b[Shape::kB];
  Bytes16 raw[Shape::kA][unit_loads(Shape::type)];
  GroupScales scales[Shape::kA];

  LANNER_DEVICE void load_weights(const char* stage, int warp_tile, int step) {
    LANNER_UNROLL
    for (int i = 0; i < Shape::kA; ++i) {
      const char* codes = stage + (warp_tile + i) * Shape::kLoads * kLoadBytes + lane_index() * 16;
      const int load = step * Shape::kLoads / Shape::kSteps;
      if (step * Shape::kLoads % Shape::kSteps == 0) raw[i][load] = load16(codes + load * kLoadBytes);
      if constexpr (Shape::kScaleBytes > 0) {
        if (step % 2 == 0)
          scales[i] = group_scales<Shape::type>(stage + Shape::kCodeBytes + Shape::kTokenBytes +
                                                    (warp_tile + i) * unit_scale_bytes(Shape::type) +
                                                    lane_scale_offset(Shape::type, lane_index()),
                                                step / 2);
      }
      weight_fragment<Shape::type>(raw[i], scales[i], step, a[step % 2][i]);
    }
  }
  LANNER_DEVICE void load_token(const char* stage, int warp_token, int j, int group) {
    b[j] = load16(stage + Shape::kCodeBytes + (group * Shape::kTokens + warp_token + j * 8) * 64 +
                  lane_index() * 16);
  }
};

// The sums of a warp, half of its tokens at a time: what the shared memory of the ring holds.
template <class Shape>
LANNER_DEVICE void store_sums(const LinearArgs& args, const float (&sums)[Shape::kA][Shape::kB][4], int row0,
                              int token0, int n_tokens) {
  constexpr int kHalf = Shape::kB / 2;
  const int lane = lane_index();
  const typename Shape::WarpResults results(shared_memory<char>() +
                                            warp_index() * Shape::WarpResults::kBytes);
  LANNER_UNROLL
  for (int half = 0; half < 2; ++half) {
    sync_warp();
    LANNER_UNROLL
    for (int j = 0; j < kHalf; ++j) {
      LANNER_UNROLL
      for (int t = 0; t < Shape::kA; ++t) {
        LANNER_UNROLL
        for (int r = 0; r < 4; ++r)
          *results.at(j * 8 + lane % 4 * 2 + r % 2, t * 16 + lane / 4 + r / 2 * 8) =
              sums[t][half * kHalf + j][r];
      }
    }
    sync_warp();
    results.store(args, row0, token0 + half * kHalf * 8, n_tokens);
  }
}

template <class Shape>
LANNER_KERNEL(128, 2)
linear_tiled_kernel(LinearArgs args) {
  constexpr int kA = Shape::kA, kB = Shape::kB, kSteps = Shape::kSteps;
  const int n_tokens = *args.rows.n;
  const int n_row_tiles = ceil_div(args.weight.n, Shape::kRows);
  const int n_token_tiles = ceil_div(n_tokens, Shape::kTokens);
  if (block_x() >= n_row_tiles * n_token_tiles) return;
  const Tile tile = tile_of(block_x(), n_token_tiles, n_row_tiles);
  const int row0 = tile.row * Shape::kRows, token0 = tile.token * Shape::kTokens;
  const int n_stages = args.weight.k / (32 * Shape::kGroups);
  const int warp_row = warp_index() % Shape::kWarpsByRow * Shape::kWarpRows;
  const int warp_token = warp_index() / Shape::kWarpsByRow * Shape::kWarpTokens;
  char* const shared = shared_memory<char>();

  const TiledCopies<Shape> copies(args, row0, token0, n_tokens);
  LANNER_UNROLL
  for (int s = 0; s < Shape::kStages; ++s) copies.issue(shared + s * Shape::kStageBytes, s, s < n_stages);
  copy_async_wait<Shape::kStages - 1>();
  sync_block();

  char* stage = shared;
  TiledOperands<Shape> operands;
  float sums[kA][kB][4] = {};
  operands.load_weights(stage, warp_row / 16, 0);
  LANNER_UNROLL
  for (int j = 0; j < kB; ++j) operands.load_token(stage, warp_token, j, 0);
  LANNER_ROLLED
  for (int i = 0; i < n_stages; ++i) {
    LANNER_UNROLL
    for (int step = 0; step < kSteps; ++step) {
      const int next = (step + 1) % kSteps;
      if (next == 0) {  // all operands of this stage are in registers: its place takes another
        copy_async_wait<Shape::kStages - 2>();
        sync_block();
        copies.issue(stage, i + Shape::kStages, i + Shape::kStages < n_stages);
        stage =
            stage == shared + (Shape::kStages - 1) * Shape::kStageBytes ? shared : stage + Shape::kStageBytes;
      }
      operands.load_weights(stage, warp_row / 16, next);
      LANNER_UNROLL
      for (int j = 0; j < kB; ++j) {
        uint32_t b[2];
        token_fragment(operands.b[j], step, b);
        LANNER_UNROLL
        for (int t = 0; t < kA; ++t) mma_bf16(sums[t][j], operands.a[step % 2][t], b);
        if (next % 2 == 0) operands.load_token(stage, warp_token, j, next / 2);
      }
    }
  }
  copy_async_wait<0>();
  sync_block();
  store_sums<Shape>(args, sums, row0 + warp_row, token0 + warp_token, n_tokens);
}

// --- launchers --------------------------------------------------------------------------------------------
namespace {

template <WeightType type, int kRows>
void launch_tiled(const LinearArgs& args, const Bounds& bounds) {
  using Shape = TiledShape<type, kRows>;
  const int n_blocks = ceil_div(args.weight.n, kRows) * ceil_div(args.rows.bound(bounds), kRows);
  launch(linear_tiled_kernel<Shape>, {{n_blocks}, Shape::kThreads, Shape::kSharedBytes}, bounds.stream, args);
}

template <WeightType type>
void launch_tiled(const LinearArgs& args, const Bounds& bounds) {
  if (args.rows.bound(bounds) <= 64)
    launch_tiled<type, 64>(args, bounds);
  else
    launch_tiled<type, 128>(args, bounds);
}

}  // namespace

void linear_tiled(const LinearArgs& args, const Bounds& bounds) {
  check(args.norm_weight == nullptr, "linear: norm_weight is given for more than ", kSkinnyTokens,
        " rows, which rms_norm is to norm before");
  if (args.plain != nullptr && device_info().sm_version == 90 && sm90_is_faster(args, bounds))
    return linear_sm90(args, bounds);
  switch (args.weight.type) {
    case WeightType::kBf16:
      return launch_tiled<WeightType::kBf16>(args, bounds);
    case WeightType::kInt8:
      return launch_tiled<WeightType::kInt8>(args, bounds);
    case WeightType::kInt4:
      return launch_tiled<WeightType::kInt4>(args, bounds);
  }
}

}  // namespace lanner::cuda
