// y = W x for at most 32 tokens and weights of 8 or 4 bits: of few tokens, as fast as the weights can be
// read.
//
// As linear_skinny.cuh, whose rings, shares and ends these are. But a KB of these weights brings more work,
// and a B200 has only some 140 issue slots for it. So codes are multiplied as the integers they are, for
// which 8 bits need no conversion and 4 bits a mask, and tokens are two planes of bytes (planes.h), with
// which four tokens are the 8 columns of an mma:
//
//   sum_k w x = sum over groups of scale_w scale_x (codes high + codes low / 256) + minimum_w sum x
//
// The mma gives codes high and codes low of a group exactly. They begin at the bits of a float to which
// whole numbers can be added as integers, so that no conversion is needed, and the multiplication by the
// scale takes that float away as well: three or four fused multiply-adds for each sum and group.
#include "cuda/planes.h"
#include "cuda/skinny.h"

namespace lanner::cuda {

// --- kernels ----------------------------------------------------------------------------------------------
// Group j of a unit as operand of mma_int8.
template <WeightType type>
LANNER_DEVICE void byte_fragment(const Bytes16 (&loads)[unit_loads(type)], int j, uint32_t (&a)[4]) {
  if constexpr (type == WeightType::kInt8) {
    a[0] = loads[j].x, a[1] = loads[j].y, a[2] = loads[j].z, a[3] = loads[j].w;
  } else {
    const uint32_t rows[2] = {j ? loads[0].z : loads[0].x, j ? loads[0].w : loads[0].y};
    LANNER_UNROLL for (int h = 0; h < 2; ++h) {
      a[h] = rows[h] & 0x0f0f0f0fu;
      a[2 + h] = rows[h] >> 4 & 0x0f0f0f0fu;
    }
  }
}

// Where products begin, so that with a sum s below 2^22 their bits are those of a float: of 1.5 * 2^23 + s
// with `high`, of 1.5 * 2^15 + s / 256 with `low`.
inline constexpr int32_t kHighBits = 0x4B400000, kLowBits = 0x47400000;
inline constexpr float kBases = 12582912.0f + 49152.0f;

// sums += group j of a unit, for each tile and each block of four tokens. bytes and factors: this lane's,
// of the planes of the group.
template <WeightType type, int kTiles, int kBlocks>
LANNER_DEVICE void add_group(SkinnySums<kTiles, kBlocks, 1>& sums, const std::byte* stage,
                             const Bytes16 (&loads)[kTiles][unit_loads(type)], const Bytes8 (&bytes)[kBlocks],
                             const Float2 (&factors)[kBlocks], int j) {
  LANNER_UNROLL for (int i = 0; i < kTiles; ++i) {
    uint32_t a[4];
    byte_fragment<type>(loads[i], j, a);
    const GroupScales w = group_scales<type>(UnitRing<type, kTiles>::scales(stage, i, lane_index()), j);
    LANNER_UNROLL for (int t = 0; t < kBlocks; ++t) {
      int32_t d[4] = {kHighBits, kLowBits, kHighBits, kLowBits};
      const uint32_t b[2] = {bytes[t].x, bytes[t].y};
      mma_int8(d, a, b);
      LANNER_UNROLL for (int h = 0; h < 2; ++h) {
        // The bases times the scale are exact, as it has 11 bits. What is rounded is 2^-24 of the sum and a
        // 340th of the scale.
        const float scale = w.scale[h];
        const float high = fmaf(float_of(d[2 * h]), scale, -kBases * scale);
        const float product = fmaf(float_of(d[2 * h + 1]), scale, high);
        float& sum = sums.of[i][t][h];
        sum = fmaf(product, factors[t].x, sum);
        if constexpr (type == WeightType::kInt4) sum = fmaf(w.minimum[h], factors[t].y, sum);
      }
    }
  }
}

// Planes of all tokens, whole, in the workspace.
template <WeightType type, int kSlots, bool kNorm>
LANNER_KERNEL(kSkinnyWarps* kWarpSize, 4)
token_planes_kernel(LinearArgs args) {
  begin_kernel();
  const int n_tokens = *args.rows.n, n_threads = kSkinnyWarps * kWarpSize;
  if (n_tokens <= 0) return;
  Planes<type, kNorm, kSlots> planes(args.workspace, kSlots, n_units(args.weight));
  planes.fill(args, n_tokens, 0, n_units(args.weight), block_x() * n_threads + thread_index(),
              grid_x() * n_threads);
}

// kBlocks: of four tokens.
template <WeightType type, int kBlocks, bool kNorm>
LANNER_KERNEL(kSkinnyWarps* kWarpSize, kBlocks == 1 ? 3 : 2)
linear_skinny_int_kernel(LinearArgs args, int n_splits) {
  constexpr int kTiles = skinny_tiles(type, 4 * kBlocks);
  constexpr bool kOwnPlanes = 4 * kBlocks <= kOwnPlanesTokens;
  using Ring = UnitRing<type, kTiles>;
  using TokenPlanes = Planes<type, kNorm, kOwnPlanes ? 0 : 4 * kBlocks>;
  const int lane = lane_index(), g = lane / 4, c = lane % 4, warp = warp_index();
  const int all_units = n_units(args.weight);
  const SkinnyShare share = skinny_share(warp, n_splits, kTiles);

  std::byte* shared = shared_memory<std::byte>() + warp * ring_bytes(type);
  int32_t* slots = reinterpret_cast<int32_t*>(shared_memory<std::byte>() + kSkinnyWarps * ring_bytes(type));
  float* roots = reinterpret_cast<float*>(slots + kSkinnyTokens);
  std::byte* own_planes = reinterpret_cast<std::byte*>(roots + kSkinnyTokens);
  // Weights depend on no kernel: they are under way while the one ahead ends.
  Ring ring(shared, args.weight, share.tile, share.split, n_splits);
  const int n_tokens = begin_tokens(args, slots);
  if (n_tokens <= 0) return copy_async_wait<0>();

  const int stretch = kOwnPlanes ? own_planes_units(n_tokens, all_units, n_splits) : all_units;
  std::byte* const memory = kOwnPlanes ? own_planes : args.workspace;
  TokenPlanes planes(memory, kOwnPlanes ? n_tokens : 4 * kBlocks, stretch);
  // Column g of the t-th mma is a plane of token 4 t + g / 2; sums are of token 4 t + c.
  const auto slot = [&](int token) { return kOwnPlanes && token >= n_tokens ? n_tokens - 1 : token; };
  int bytes_at[kBlocks], factors_at[kBlocks];
  LANNER_UNROLL for (int t = 0; t < kBlocks; ++t) {
    bytes_at[t] = planes.codes_at(slot(4 * t + g / 2)) + c * 16 + g % 2 * 8;
    factors_at[t] = planes.factors_at(slot(4 * t + c));
  }
  SkinnySums<kTiles, kBlocks, 1> sums;
  constexpr int kOwn = (4 * kBlocks + kSkinnyWarps - 1) / kSkinnyWarps;  // tokens whose squares a warp sums
  float squares[kOwn] = {};
  int unit = share.split;  // of the stretch
  for (int first = 0; first < all_units; first += stretch) {
    const int left = all_units - first, n = left < stretch ? left : stretch;
    if constexpr (kOwnPlanes) {
      if (first > 0) sync_block();
      planes.fill(args, n_tokens, first, n, thread_index(), kSkinnyWarps * kWarpSize);
      sync_block();
    }
    if constexpr (kNorm) planes.add_squares(squares, n_tokens, warp, first, n);
    const int end = share.tile < n_tiles(args.weight) ? n : unit;
    LANNER_ROLLED
    for (; unit < end; unit += n_splits) {
      Bytes8 bytes[kBlocks];
      Float2 factors[kBlocks];
      const auto load_tokens = [&](int j) {
        LANNER_UNROLL for (int t = 0; t < kBlocks; ++t) {
          const int byte = bytes_at[t] + unit * TokenPlanes::kNextUnit + j * kUnitK;
          const int factor = factors_at[t] + (2 * unit + j) * TokenPlanes::kNextGroup;
          bytes[t] = *reinterpret_cast<const Bytes8*>(memory + byte);
          factors[t] = *reinterpret_cast<const Float2*>(memory + factor);
        }
      };
      const std::byte* stage = ring.next();
      Bytes16 loads[kTiles][unit_loads(type)];
      LANNER_UNROLL for (int i = 0; i < kTiles; ++i) Ring::codes(stage, i, lane, loads[i]);
      load_tokens(0);
      add_group<type>(sums, stage, loads, bytes, factors, 0);
      load_tokens(1);
      add_group<type>(sums, stage, loads, bytes, factors, 1);
    }
    unit -= n;
  }

  sums.leave(shared);
  if constexpr (kNorm) {
    LANNER_UNROLL for (int t = 0; t < kOwn; ++t) {
      const float sum = warp_sum(squares[t]), k = static_cast<float>(args.weight.k);
      if (lane == 0) roots[warp + kSkinnyWarps * t] = rsqrt_approx(sum / k + args.norm_eps);
    }
  }
  sync_block();
  sums.end(args, share, shared, ring_bytes(type), n_tokens, slots,
           [&](int token) { return kNorm ? roots[token] : 1.0f; });
}

// --- launchers --------------------------------------------------------------------------------------------
namespace {

constexpr size_t shared_bytes(WeightType type, int most_tokens) {
  return kSkinnyWarps * ring_bytes(type) + kSkinnyTokens * (sizeof(int32_t) + sizeof(float)) +
         (most_tokens <= kOwnPlanesTokens ? kOwnPlanesBytes : 0);
}

template <WeightType type, int kSlots>
void make_planes(const LinearArgs& args, const Bounds& bounds) {
  const int64_t needed = planes_workspace_bytes(args.weight);
  check(args.workspace != nullptr && args.workspace_bytes >= needed, "linear: workspace has ",
        args.workspace ? args.workspace_bytes : 0, " bytes, wanted ", needed);
  constexpr int kThreads = kSkinnyWarps * kWarpSize;
  launch(
      args.norm_weight ? token_planes_kernel<type, kSlots, true> : token_planes_kernel<type, kSlots, false>,
      {.grid = {ceil_div(kSlots * (args.weight.k / 8), kThreads)}, .n_threads = kThreads, .overlaps = true},
      bounds.stream, args);
}

template <WeightType type, int kBlocks>
void launch_skinny_int(const LinearArgs& args, const Bounds& bounds) {
  if constexpr (4 * kBlocks > kOwnPlanesTokens) make_planes<type, 4 * kBlocks>(args, bounds);
  const auto smallest = reinterpret_cast<const void*>(&linear_skinny_int_kernel<type, 1, false>);
  const int n_splits = skinny_splits(args.weight, smallest, shared_bytes(type, 4));
  launch(args.norm_weight ? linear_skinny_int_kernel<type, kBlocks, true>
                          : linear_skinny_int_kernel<type, kBlocks, false>,
         skinny_shape(args.weight, 4 * kBlocks, n_splits, shared_bytes(type, 4 * kBlocks)), bounds.stream,
         args, n_splits);
}

template <WeightType type>
void launch_skinny_int(const LinearArgs& args, const Bounds& bounds) {
  const int n = args.rows.bound(bounds);
  (n <= 4    ? launch_skinny_int<type, 1>
   : n <= 8  ? launch_skinny_int<type, 2>
   : n <= 16 ? launch_skinny_int<type, 4>
             : launch_skinny_int<type, 8>)(args, bounds);
}

}  // namespace

void linear_skinny_int(const LinearArgs& args, const Bounds& bounds) {
  (args.weight.type == WeightType::kInt8 ? launch_skinny_int<WeightType::kInt8>
                                         : launch_skinny_int<WeightType::kInt4>)(args, bounds);
}

}  // namespace lanner::cuda
