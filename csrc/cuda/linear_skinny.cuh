// y = W x for at most 32 tokens: as fast as the weights can be read.
//
// Weights are the 16 rows of an mma, tokens its 8 columns, so that even one token leaves the issue slots
// almost idle: one mma, one copy and one load for each 512 bytes. A warp sums a tile of 16 rows over its
// share of k: units of 64 k pass through a ring of its own in shared memory, copied asynchronously, which
// keeps kRingBytes less one unit in flight for each warp whatever the compiler makes of it. A lane reads back
// mostly the bytes that it copied itself, and the tokens come from L1 as 16 bytes a lane: there is no barrier
// in the loop. Warps that share a tile take its units in turn; their sums meet in shared memory, in a fixed
// order that depends on the shape of W alone, so that a token's result does not depend on the tokens beside
// it.
//
// The norm needs no pass of its own: x is multiplied by its weights on the way to the tensor cores, squares
// are summed beside the products, and the sums are divided by the root at the end.
#include "cuda/linear_end.h"

namespace lanner::cuda {

// --- kernels ----------------------------------------------------------------------------------------------
// Eight warps with 6 KB each: 48 KB, of which two blocks fit in the 100 KB of consumer GPUs and four in an
// H100.
inline constexpr int kSkinnyWarps = 8;
inline constexpr int kRingBytes = 6 * 1024;
inline constexpr int kSkinnyMostSplits = kSkinnyWarps;

template <WeightType type>
inline constexpr int kRingStages = kRingBytes / (unit_code_bytes(type) + unit_scale_bytes(type));

// One unit of the ring: copied by the warp, read by its lanes.
template <WeightType type>
LANNER_DEVICE void copy_unit(std::byte* stage, const Weight& w, int64_t unit, int lane) {
  constexpr int kCodes = unit_code_bytes(type), kScales = unit_scale_bytes(type);
  const std::byte* codes = static_cast<const std::byte*>(w.codes) + unit * kCodes;
  LANNER_UNROLL for (int at = 0; at < kCodes; at += kLoadBytes)
      copy_async16_first(stage + at + lane * 16, codes + at + lane * 16);
  if (kScales > 0 && lane < kScales / 16)
    copy_async16_first(stage + kCodes + lane * 16,
                       static_cast<const std::byte*>(w.scales) + unit * kScales + lane * 16);
}

// Eight values of a token times the norm's weights, rounded; adds their squares.
LANNER_DEVICE Bytes16 times_norm(const Bytes16& x, const Float4 (&weight)[2], float& squares) {
  const auto pair = [&squares](uint32_t two, float first, float second) {
    const Float2 v = unpack_bf16(two);
    squares += v.x * v.x;
    squares += v.y * v.y;
    return pack_bf16(v.x * first, v.y * second);
  };
  return {pair(x.x, weight[0].x, weight[0].y), pair(x.y, weight[0].z, weight[0].w),
          pair(x.z, weight[1].x, weight[1].y), pair(x.w, weight[1].z, weight[1].w)};
}

// sums[b] += the two steps of group j of a unit for each block of 8 tokens.
template <WeightType type, int kBlocks>
LANNER_DEVICE void add_group(float (&sums)[kBlocks][4], const Bytes16 (&codes)[unit_loads(type)],
                             const std::byte* lane_scales, const Bytes16 (&x)[kBlocks][2], int j) {
  uint32_t a[2][4], b[2];
  LANNER_UNROLL for (int s = 0; s < 2; ++s) code_fragment<type>(codes, 2 * j + s, a[s]);
  if constexpr (type == WeightType::kBf16) {
    LANNER_UNROLL for (int t = 0; t < kBlocks; ++t) {
      LANNER_UNROLL for (int s = 0; s < 2; ++s) token_fragment(x[t][j], s, b), mma_bf16(sums[t], a[s], b);
    }
  } else {
    // A group shares its scale, so codes are multiplied as they are and their sum is scaled in float32. The
    // minimum, and the bias of the codes, meet the sum of the tokens, which an mma with ones gives.
    constexpr bool kHasMinimum = type == WeightType::kInt4;
    constexpr uint32_t kOnes[4] = {0x3F803F80u, 0x3F803F80u, 0x3F803F80u, 0x3F803F80u};
    const GroupScales scales = group_scales<type>(lane_scales, j);
    LANNER_UNROLL for (int t = 0; t < kBlocks; ++t) {
      float products[4] = {}, totals[4] = {};
      LANNER_UNROLL for (int s = 0; s < 2; ++s) {
        token_fragment(x[t][j], s, b);
        mma_bf16(products, a[s], b);
        if constexpr (kHasMinimum) mma_bf16(totals, kOnes, b);
      }
      LANNER_UNROLL for (int i = 0; i < 4; ++i) {
        const float scale = scales.scale[i / 2];
        sums[t][i] += scale * products[i];
        if constexpr (kHasMinimum)
          sums[t][i] += (scales.minimum[i / 2] - kCodeBias<type> * scale) * totals[i];
      }
    }
  }
}

template <WeightType type, int kBlocks, bool kNorm>
LANNER_KERNEL(kSkinnyWarps* kWarpSize, kBlocks == 4 ? 2 : 3)
linear_skinny_kernel(LinearArgs args, int n_splits) {
  constexpr int kStages = kRingStages<type>;
  constexpr int kStageBytes = unit_code_bytes(type) + unit_scale_bytes(type);
  const int lane = lane_index(), g = lane / 4, c = lane % 4, warp = warp_index();
  const int split = warp % n_splits;
  const int tile = (block_x() * kSkinnyWarps + warp) / n_splits;
  const int k = args.weight.k, units = n_units(args.weight);
  const int n_mine = tile < n_tiles(args.weight) ? (units - split + n_splits - 1) / n_splits : 0;

  std::byte* ring = shared_memory<std::byte>() + warp * kRingBytes;
  int32_t* slots = reinterpret_cast<int32_t*>(shared_memory<std::byte>() + kSkinnyWarps * kRingBytes);
  const auto copy = [&](int i, int stage) {
    if (i < n_mine)
      copy_unit<type>(ring + stage * kStageBytes, args.weight, int64_t{tile} * units + split + i * n_splits,
                      lane);
    copy_async_commit();
  };
  // Weights depend on no kernel: they are under way while the one ahead ends.
  LANNER_UNROLL for (int i = 0; i < kStages - 1; ++i) copy(i, i);
  let_next_kernel_begin();
  wait_for_kernel_ahead();
  const int n_tokens = *args.rows.n;
  if (args.end == LinearEnd::kQkv && thread_index() < n_tokens)
    slots[thread_index()] = kv_slot(args.qkv, thread_index());

  float sums[kBlocks][4] = {}, squares[kBlocks] = {};
  int stage = 0, free_stage = kStages - 1;
  for (int i = 0; i < n_mine; ++i) {
    const int at = (split + i * n_splits) * kUnitK + 8 * c;
    Bytes16 x[kBlocks][2];
    LANNER_UNROLL for (int t = 0; t < kBlocks; ++t) {
      LANNER_UNROLL for (int j = 0; j < 2; ++j) {
        const int token = 8 * t + g;
        x[t][j] = token < n_tokens ? load16(args.x + int64_t{token} * k + at + 32 * j) : Bytes16{};
      }
    }
    if constexpr (kNorm) {
      LANNER_UNROLL for (int j = 0; j < 2; ++j) {
        const Float4* from = reinterpret_cast<const Float4*>(args.norm_weight + at + 32 * j);
        const Float4 weight[2] = {from[0], from[1]};
        LANNER_UNROLL for (int t = 0; t < kBlocks; ++t) x[t][j] = times_norm(x[t][j], weight, squares[t]);
      }
    }
    copy_async_wait<kStages - 2>();
    if constexpr (unit_scale_bytes(type) > 0) sync_warp();  // scales come through other lanes
    copy(i + kStages - 1, free_stage);                      // where the unit before this one was
    const std::byte* unit = ring + stage * kStageBytes;
    Bytes16 codes[unit_loads(type)];
    LANNER_UNROLL for (int l = 0; l < unit_loads(type); ++l) codes[l] =
        load16(unit + l * kLoadBytes + lane * 16);
    LANNER_UNROLL for (int j = 0; j < 2; ++j) add_group<type, kBlocks>(
        sums, codes, unit + unit_code_bytes(type) + lane_scale_offset(type, lane), x, j);
    free_stage = stage;
    stage = stage + 1 == kStages ? 0 : stage + 1;
  }

  // Sums of the warps of a tile meet where the rings were.
  constexpr int kSquaresAt = kBlocks * kLoadBytes;
  copy_async_wait<0>();
  sync_warp();
  LANNER_UNROLL for (int t = 0; t < kBlocks; ++t) {
    reinterpret_cast<Float4*>(ring + t * kLoadBytes)[lane] = {sums[t][0], sums[t][1], sums[t][2], sums[t][3]};
    if constexpr (kNorm) {
      squares[t] += shuffle_xor(squares[t], 1);
      squares[t] += shuffle_xor(squares[t], 2);
      if (c == 0) reinterpret_cast<float*>(ring + kSquaresAt)[8 * t + g] = squares[t];
    }
  }
  sync_block();
  if (tile >= n_tiles(args.weight)) return;
  const std::byte* first = ring - split * kRingBytes;  // of the tile
  for (int t = split; t < kBlocks; t += n_splits) {
    float sum[4] = {}, square[2] = {};
    for (int s = 0; s < n_splits; ++s) {
      const std::byte* from = first + s * kRingBytes;
      const Float4 v = reinterpret_cast<const Float4*>(from + t * kLoadBytes)[lane];
      sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
      if constexpr (kNorm) {
        const Float2 q =
            *reinterpret_cast<const Float2*>(from + kSquaresAt + (8 * t + 2 * c) * sizeof(float));
        square[0] += q.x, square[1] += q.y;
      }
    }
    LANNER_UNROLL for (int e = 0; e < 2; ++e) {
      const int token = 8 * t + 2 * c + e;
      if (token >= n_tokens) continue;
      const float scale = kNorm ? rsqrt_approx(square[e] / static_cast<float>(k) + args.norm_eps) : 1.0f;
      const int32_t slot = args.end == LinearEnd::kQkv ? slots[token] : 0;
      end_rows(args, tile, g, token, slot, sum[e] * scale, sum[2 + e] * scale);
    }
  }
}

// --- launchers --------------------------------------------------------------------------------------------
namespace {

// Warps that share a tile. A thousand warps keep 4 KB or more each in flight: what a B200 needs, and more
// than any other. Of the shape alone, so that sums keep their order.
int skinny_splits(const Weight& w) {
  constexpr int kEnoughWarps = 1024;
  int n_splits = 1;
  while (n_splits < kSkinnyMostSplits && n_tiles(w) * n_splits < kEnoughWarps && n_splits < n_units(w))
    n_splits *= 2;
  return n_splits;
}

template <WeightType type, int kBlocks>
void launch_skinny(const LinearArgs& args, const Bounds& bounds) {
  if (args.rows.bound(bounds) == 0) return;
  const int n_splits = skinny_splits(args.weight);
  const LaunchShape shape{.grid = {ceil_div(n_tiles(args.weight) * n_splits, kSkinnyWarps)},
                          .n_threads = kSkinnyWarps * kWarpSize,
                          .shared_bytes = kSkinnyWarps * kRingBytes + kSkinnyTokens * sizeof(int32_t),
                          .overlaps = true};
  launch(args.norm_weight ? linear_skinny_kernel<type, kBlocks, true>
                          : linear_skinny_kernel<type, kBlocks, false>,
         shape, bounds.stream, args, n_splits);
}

template <WeightType type>
void launch_skinny(const LinearArgs& args, const Bounds& bounds) {
  const int n = args.rows.bound(bounds);
  (n <= 8 ? launch_skinny<type, 1> : n <= 16 ? launch_skinny<type, 2> : launch_skinny<type, 4>)(args, bounds);
}

}  // namespace

void linear_skinny(const LinearArgs& args, const Bounds& bounds) {
  check(args.rows.bound(bounds) <= kSkinnyTokens, "linear_skinny: a bound of ", args.rows.bound(bounds),
        " rows, wanted at most ", kSkinnyTokens);
  switch (args.weight.type) {
    case WeightType::kBf16:
      return launch_skinny<WeightType::kBf16>(args, bounds);
    case WeightType::kInt8:
      return launch_skinny<WeightType::kInt8>(args, bounds);
    case WeightType::kInt4:
      return launch_skinny<WeightType::kInt4>(args, bounds);
  }
}

}  // namespace lanner::cuda
