// y = W x for at most 32 tokens and weights of bf16: as fast as the weights can be read.
//
// Weights are the 16 rows of an mma, tokens its 8 columns, so that even one token leaves the issue slots
// almost idle: one mma, one copy and one load for each 512 bytes. A warp sums a tile of 16 rows over its
// share of k: units of 64 k pass through a ring of its own in shared memory, copied asynchronously, which
// keeps all but one of its stages in flight whatever the compiler makes of it. A lane reads back only the
// bytes that it copied itself, and the tokens come from L1 as 16 bytes a lane: there is no barrier in the
// loop. Warps that share a tile take its units in turn; their sums meet in shared memory, in a fixed order
// that depends on the shape of W and the GPU, so that a token's result does not depend on the tokens beside
// it.
//
// The norm needs no pass of its own: x is multiplied by its weights on the way to the tensor cores, squares
// are summed beside the products, and the sums are divided by the root at the end.
#include "cuda/skinny.h"

namespace lanner::cuda {

// --- kernels ----------------------------------------------------------------------------------------------
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

// sums[t] += the two steps of group j of a unit, for each block of 8 tokens.
template <int kBlocks>
LANNER_DEVICE void add_group(SkinnySums<1, kBlocks, 2>& sums, const Bytes16 (&loads)[4],
                             const Bytes16 (&x)[kBlocks], int j) {
  LANNER_UNROLL for (int s = 0; s < 2; ++s) {
    uint32_t a[4];
    code_fragment<WeightType::kBf16>(loads, 2 * j + s, a);
    LANNER_UNROLL for (int t = 0; t < kBlocks; ++t) {
      uint32_t b[2];
      token_fragment(x[t], s, b);
      mma_bf16(sums.of[0][t], a, b);
    }
  }
}

template <int kBlocks, bool kNorm>
LANNER_KERNEL(kSkinnyWarps* kWarpSize, kBlocks == 1 ? 3 : 2)
linear_skinny_kernel(LinearArgs args, int n_splits) {
  using Ring = UnitRing<WeightType::kBf16, 1>;
  constexpr int kRingBytes = ring_bytes(WeightType::kBf16);
  const int lane = lane_index(), g = lane / 4, c = lane % 4, warp = warp_index();
  const SkinnyShare share = skinny_share(warp, n_splits, 1);
  const int k = args.weight.k;

  std::byte* shared = shared_memory<std::byte>() + warp * kRingBytes;
  int32_t* slots = reinterpret_cast<int32_t*>(shared_memory<std::byte>() + kSkinnyWarps * kRingBytes);
  // Weights depend on no kernel: they are under way while the one ahead ends.
  Ring ring(shared, args.weight, share.tile, share.split, n_splits);
  const int n_tokens = begin_tokens(args, slots);
  if (n_tokens <= 0) return copy_async_wait<0>();

  // Columns without a token repeat the last one: columns do not see each other, and nobody asks for these.
  int rows[kBlocks];
  LANNER_UNROLL for (int t = 0; t < kBlocks; ++t) rows[t] =
      (8 * t + g < n_tokens ? 8 * t + g : n_tokens - 1) * k;
  SkinnySums<1, kBlocks, 2> sums;
  float squares[kBlocks] = {};
  Bytes16 x[2][kBlocks];
  const auto load_tokens = [&](int at, int j) {
    LANNER_UNROLL for (int t = 0; t < kBlocks; ++t) x[j][t] = load16(args.x + (rows[t] + at) + j * kGroupK);
    if constexpr (kNorm) {
      const Float4* from = reinterpret_cast<const Float4*>(args.norm_weight + at + j * kGroupK);
      const Float4 weight[2] = {from[0], from[1]};
      LANNER_UNROLL for (int t = 0; t < kBlocks; ++t) x[j][t] = times_norm(x[j][t], weight, squares[t]);
    }
  };
  // Tokens are on their way before the weights are waited for; 32 of them would fill the registers.
  constexpr bool kEarly = kBlocks <= 2;
  const int end = share.tile < n_tiles(args.weight) ? k : 0;
  for (int at = share.split * kUnitK + 8 * c; at < end; at += n_splits * kUnitK) {
    load_tokens(at, 0);
    if constexpr (kEarly) load_tokens(at, 1);
    const std::byte* stage = ring.next();
    Bytes16 loads[4];
    Ring::codes(stage, 0, lane, loads);
    add_group(sums, loads, x[0], 0);
    if constexpr (!kEarly) load_tokens(at, 1);
    add_group(sums, loads, x[1], 1);
  }

  constexpr int kSquaresAt = kBlocks * kLoadBytes;  // behind the sums
  sums.leave(shared);
  if constexpr (kNorm) {
    LANNER_UNROLL for (int t = 0; t < kBlocks; ++t) {
      squares[t] += shuffle_xor(squares[t], 1);
      squares[t] += shuffle_xor(squares[t], 2);
      if (c == 0) reinterpret_cast<float*>(shared + kSquaresAt)[8 * t + g] = squares[t];
    }
  }
  sync_block();
  sums.end(args, share, shared, kRingBytes, n_tokens, slots, [&](int token) {
    if (!kNorm) return 1.0f;
    const std::byte* first = shared - share.split * kRingBytes + kSquaresAt;
    float sum = 0;
    for (int s = 0; s < n_splits; ++s) sum += reinterpret_cast<const float*>(first + s * kRingBytes)[token];
    return rsqrt_approx(sum / static_cast<float>(k) + args.norm_eps);
  });
}

// --- launchers --------------------------------------------------------------------------------------------
namespace {

constexpr size_t kShared = kSkinnyWarps * ring_bytes(WeightType::kBf16) + kSkinnyTokens * sizeof(int32_t);

template <int kBlocks>
void launch_skinny(const LinearArgs& args, const Bounds& bounds) {
  const auto smallest = reinterpret_cast<const void*>(&linear_skinny_kernel<1, false>);
  const int n_splits = skinny_splits(args.weight, smallest, kShared);
  launch(args.norm_weight ? linear_skinny_kernel<kBlocks, true> : linear_skinny_kernel<kBlocks, false>,
         skinny_shape(args.weight, 8 * kBlocks, n_splits, kShared), bounds.stream, args, n_splits);
}

}  // namespace

void linear_skinny_bf16(const LinearArgs& args, const Bounds& bounds) {
  const int n = args.rows.bound(bounds);
  (n <= 8 ? launch_skinny<1> : n <= 16 ? launch_skinny<2> : launch_skinny<4>)(args, bounds);
}

}  // namespace lanner::cuda
