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

// Tiles that a warp sums side by side. Two of four bits share the tokens, which cost as much as the codes;
// three stages of larger units would not fit, nor would the sums of 32 tokens.
LANNER_BOTH constexpr int skinny_tiles(WeightType type, int n_blocks) {
  return type == WeightType::kInt4 && n_blocks <= 2 ? 2 : 1;
}

// A ring of units in shared memory, which a warp fills and reads by itself. Stages hold a unit of each tile.
template <WeightType type, int kTiles>
struct UnitRing {
  static constexpr int kCodes = unit_code_bytes(type), kScales = unit_scale_bytes(type);
  static constexpr int kStageBytes = kTiles * (kCodes + kScales);
  static constexpr int kStages = kRingBytes / kStageBytes;

  // Of units first, first + step, ... below n_units of tiles tile, tile + 1, ..., the last of which is taken
  // again for those that are missing.
  LANNER_DEVICE UnitRing(std::byte* shared, const Weight& w, int tile, int first, int step)
      : shared_(shared), lane_(lane_index()), step_(step), n_left_((n_units(w) - first + step - 1) / step) {
    LANNER_UNROLL for (int i = 0; i < kTiles; ++i) {
      const int of = tile + i < n_tiles(w) ? tile + i : n_tiles(w) - 1;
      const int64_t unit = int64_t{of} * n_units(w) + first;
      codes_[i] = static_cast<const std::byte*>(w.codes) + unit * kCodes + lane_ * 16;
      scales_[i] = static_cast<const std::byte*>(w.scales) + unit * kScales + lane_ * 16;
    }
    if (tile >= n_tiles(w)) n_left_ = 0;
    LANNER_UNROLL for (int i = 0; i < kStages - 1; ++i) fill(i * kStageBytes);
  }

  // The next unit. What was read of the one before is lost: its stage is filled anew.
  LANNER_DEVICE const std::byte* next() {
    copy_async_wait<kStages - 2>();
    if constexpr (kScales > 0) sync_warp();  // scales come through other lanes
    fill(free_);
    free_ = at_;
    at_ = at_ + kStageBytes == kStages * kStageBytes ? 0 : at_ + kStageBytes;
    return shared_ + free_;
  }

  static LANNER_DEVICE void codes(const std::byte* stage, int tile, int lane,
                                  Bytes16 (&loads)[unit_loads(type)]) {
    LANNER_UNROLL for (int l = 0; l < unit_loads(type); ++l) loads[l] =
        load16(stage + tile * kCodes + l * kLoadBytes + lane * 16);
  }
  static LANNER_DEVICE const std::byte* scales(const std::byte* stage, int tile, int lane) {
    return stage + kTiles * kCodes + tile * kScales + lane_scale_offset(type, lane);
  }

 private:
  LANNER_DEVICE void fill(int stage) {
    if (n_left_ > 0) {
      LANNER_UNROLL for (int i = 0; i < kTiles; ++i) {
        std::byte* to = shared_ + stage + lane_ * 16;
        LANNER_UNROLL for (int at = 0; at < kCodes; at += kLoadBytes)
            copy_async16_first(to + i * kCodes + at, codes_[i] + at);
        codes_[i] += step_ * kCodes;
        if (kScales > 0 && lane_ < kScales / 16)
          copy_async16_first(to + kTiles * kCodes + i * kScales, scales_[i]);
        scales_[i] += step_ * kScales;
      }
    }
    --n_left_;
    copy_async_commit();
  }

  std::byte* shared_;
  const std::byte *codes_[kTiles], *scales_[kTiles];
  int lane_, step_, n_left_;
  int at_ = 0, free_ = (kStages - 1) * kStageBytes;
};

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

// sums[i][t] += the two steps of group j of a stage, for each tile and each block of 8 tokens.
template <class Ring, WeightType type, int kTiles, int kBlocks>
LANNER_DEVICE void add_group(float (&sums)[kTiles][kBlocks][4],
                             const Bytes16 (&codes)[kTiles][unit_loads(type)], const std::byte* stage,
                             const Bytes16 (&x)[kBlocks][2], int j) {
  uint32_t a[kTiles][2][4];
  LANNER_UNROLL for (int i = 0; i < kTiles; ++i) {
    LANNER_UNROLL for (int s = 0; s < 2; ++s) code_fragment<type>(codes[i], 2 * j + s, a[i][s]);
  }
  if constexpr (type == WeightType::kBf16) {
    LANNER_UNROLL for (int t = 0; t < kBlocks; ++t) {
      LANNER_UNROLL for (int s = 0; s < 2; ++s) {
        uint32_t b[2];
        token_fragment(x[t][j], s, b);
        LANNER_UNROLL for (int i = 0; i < kTiles; ++i) mma_bf16(sums[i][t], a[i][s], b);
      }
    }
  } else {
    // A group shares its scale, so codes are multiplied as they are and their sum is scaled in float32. The
    // minimum, and the bias of the codes, meet the sum of the tokens, which an mma with ones gives.
    constexpr bool kHasMinimum = type == WeightType::kInt4;
    constexpr uint32_t kOnes[4] = {0x3F803F80u, 0x3F803F80u, 0x3F803F80u, 0x3F803F80u};
    GroupScales scales[kTiles];
    LANNER_UNROLL for (int i = 0; i < kTiles; ++i) {
      scales[i] = group_scales<type>(Ring::scales(stage, i, lane_index()), j);
      LANNER_UNROLL for (int h = 0; h < 2; ++h) scales[i].minimum[h] -= kCodeBias<type> * scales[i].scale[h];
    }
    LANNER_UNROLL for (int t = 0; t < kBlocks; ++t) {
      uint32_t b[2][2];
      float totals[4] = {};
      LANNER_UNROLL for (int s = 0; s < 2; ++s) {
        token_fragment(x[t][j], s, b[s]);
        if constexpr (kHasMinimum) mma_bf16(totals, kOnes, b[s]);
      }
      LANNER_UNROLL for (int i = 0; i < kTiles; ++i) {
        float products[4] = {};
        LANNER_UNROLL for (int s = 0; s < 2; ++s) mma_bf16(products, a[i][s], b[s]);
        LANNER_UNROLL for (int e = 0; e < 4; ++e) {
          sums[i][t][e] += scales[i].scale[e / 2] * products[e];
          if constexpr (kHasMinimum) sums[i][t][e] += scales[i].minimum[e / 2] * totals[e];
        }
      }
    }
  }
}

template <WeightType type, int kBlocks, bool kNorm>
LANNER_KERNEL(kSkinnyWarps* kWarpSize, kBlocks == 1 ? 3 : 2)
linear_skinny_kernel(LinearArgs args, int n_splits) {
  constexpr int kTiles = skinny_tiles(type, kBlocks);
  using Ring = UnitRing<type, kTiles>;
  const int lane = lane_index(), g = lane / 4, c = lane % 4, warp = warp_index();
  const int split = warp % n_splits;
  const int tile = (block_x() * kSkinnyWarps + warp) / n_splits * kTiles;
  const int k = args.weight.k, tiles = n_tiles(args.weight);

  std::byte* shared = shared_memory<std::byte>() + warp * kRingBytes;
  int32_t* slots = reinterpret_cast<int32_t*>(shared_memory<std::byte>() + kSkinnyWarps * kRingBytes);
  // Weights depend on no kernel: they are under way while the one ahead ends.
  Ring ring(shared, args.weight, tile, split, n_splits);
  let_next_kernel_begin();
  wait_for_kernel_ahead();
  const int n_tokens = *args.rows.n;
  if (n_tokens <= 0) return copy_async_wait<0>();
  if (args.end == LinearEnd::kQkv && thread_index() < n_tokens)
    slots[thread_index()] = kv_slot(args.qkv, thread_index());

  // Columns without a token repeat the last one: columns do not see each other, and nobody asks for these.
  int rows[kBlocks];
  LANNER_UNROLL for (int t = 0; t < kBlocks; ++t) rows[t] =
      (8 * t + g < n_tokens ? 8 * t + g : n_tokens - 1) * k;
  float sums[kTiles][kBlocks][4] = {}, squares[kBlocks] = {};
  Bytes16 x[kBlocks][2];
  const auto load_tokens = [&](int at, int j) {
    LANNER_UNROLL for (int t = 0; t < kBlocks; ++t) x[t][j] = load16(args.x + (rows[t] + at) + j * kGroupK);
    if constexpr (kNorm) {
      const Float4* from = reinterpret_cast<const Float4*>(args.norm_weight + at + j * kGroupK);
      const Float4 weight[2] = {from[0], from[1]};
      LANNER_UNROLL for (int t = 0; t < kBlocks; ++t) x[t][j] = times_norm(x[t][j], weight, squares[t]);
    }
  };
  // Tokens are on their way before the weights are waited for; 32 of them would fill the registers.
  constexpr bool kEarly = kBlocks <= 2;
  const int end = tile < tiles ? k : 0;
  for (int at = split * kUnitK + 8 * c; at < end; at += n_splits * kUnitK) {
    load_tokens(at, 0);
    if constexpr (kEarly) load_tokens(at, 1);
    const std::byte* stage = ring.next();
    Bytes16 codes[kTiles][unit_loads(type)];
    LANNER_UNROLL for (int i = 0; i < kTiles; ++i) Ring::codes(stage, i, lane, codes[i]);
    add_group<Ring, type, kTiles, kBlocks>(sums, codes, stage, x, 0);
    if constexpr (!kEarly) load_tokens(at, 1);
    add_group<Ring, type, kTiles, kBlocks>(sums, codes, stage, x, 1);
  }

  // Sums of the warps of a tile meet where the rings were: fragment i kBlocks + t, then squares.
  constexpr int kFragments = kTiles * kBlocks, kSquaresAt = kFragments * kLoadBytes;
  copy_async_wait<0>();
  sync_warp();
  LANNER_UNROLL for (int t = 0; t < kBlocks; ++t) {
    LANNER_UNROLL for (int i = 0; i < kTiles; ++i) {
      const float (&v)[4] = sums[i][t];
      store16(shared + (i * kBlocks + t) * kLoadBytes + lane * 16,
              {bits_of(v[0]), bits_of(v[1]), bits_of(v[2]), bits_of(v[3])});
    }
    if constexpr (kNorm) {
      squares[t] += shuffle_xor(squares[t], 1);
      squares[t] += shuffle_xor(squares[t], 2);
      if (c == 0) reinterpret_cast<float*>(shared + kSquaresAt)[8 * t + g] = squares[t];
    }
  }
  sync_block();
  const std::byte* first = shared - split * kRingBytes;  // of the tile
  for (int f = split; f < kFragments; f += n_splits) {
    const int t = f % kBlocks;
    if (tile + f / kBlocks >= tiles) break;
    float sum[4] = {}, square[2] = {};
    for (int s = 0; s < n_splits; ++s) {
      const std::byte* from = first + s * kRingBytes;
      float v[4];
      load(reinterpret_cast<const float*>(from + f * kLoadBytes) + lane * 4, v);
      LANNER_UNROLL for (int e = 0; e < 4; ++e) sum[e] += v[e];
      if constexpr (kNorm) {
        const Float2 q =
            *reinterpret_cast<const Float2*>(from + kSquaresAt + (8 * t + 2 * c) * sizeof(float));
        square[0] += q.x, square[1] += q.y;
      }
    }
    for (int e = 0; e < 2; ++e) {
      const int token = 8 * t + 2 * c + e;
      if (token >= n_tokens) break;
      const float scale =
          kNorm ? rsqrt_approx((e ? square[1] : square[0]) / static_cast<float>(k) + args.norm_eps) : 1.0f;
      const int32_t slot = args.end == LinearEnd::kQkv ? slots[token] : 0;
      end_rows(args, tile + f / kBlocks, g, token, slot, (e ? sum[1] : sum[0]) * scale,
               (e ? sum[3] : sum[2]) * scale);
    }
  }
}

// --- launchers --------------------------------------------------------------------------------------------
namespace {

// Warps that share a tile. 1,400 warps with 4 KB each have 5.6 MB in flight, 38 KB on a multiprocessor of a
// B200: what it needs, and more than any other; of more, some would wait for a place. Of type and shape
// alone, so that sums keep their order whatever the number of tokens.
int skinny_splits(const Weight& w) {
  constexpr int kEnoughWarps = 1400;
  const int n_groups = ceil_div(n_tiles(w), skinny_tiles(w.type, 1));
  int n_splits = 1;
  while (n_splits < kSkinnyMostSplits && n_groups * n_splits < kEnoughWarps && n_splits < n_units(w))
    n_splits *= 2;
  return n_splits;
}

template <WeightType type, int kBlocks>
void launch_skinny(const LinearArgs& args, const Bounds& bounds) {
  if (args.rows.bound(bounds) == 0) return;
  const int n_splits = skinny_splits(args.weight);
  const int n_groups = ceil_div(n_tiles(args.weight), skinny_tiles(type, kBlocks));
  const LaunchShape shape{.grid = {ceil_div(n_groups * n_splits, kSkinnyWarps)},
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
