// What the kernels of `linear` for at most 32 tokens share: how weights stream in, how warps divide a matrix,
// and how the sums of the warps of a tile meet.
#pragma once

#include <algorithm>

#include "cuda/linear_end.h"

namespace lanner::cuda {

// Eight warps to a block: with the tokens of a block of 8- or 4-bit weights, three blocks fit on an H100.
inline constexpr int kSkinnyWarps = 8;

// Tiles that a warp sums side by side. Two of four bits share the tokens, unless the sums of many tokens
// leave no registers for a second.
LANNER_BOTH constexpr int skinny_tiles(WeightType type, int most_tokens) {
  return type == WeightType::kInt4 && most_tokens <= 8 ? 2 : 1;
}

// Of each warp. All but one stage of it is in flight, some 6 KB, so that one block on each of 128
// multiprocessors, all that a matrix of 2048 rows gives, saturates a B200.
LANNER_BOTH constexpr int ring_bytes(WeightType type) {
  return type == WeightType::kBf16 ? 4 * 2048 : type == WeightType::kInt8 ? 7 * 1088 : 12 * 640;
}

// A ring of units in shared memory, which a warp fills and reads by itself. Stages hold a unit of each tile.
template <WeightType type, int kTiles>
struct UnitRing {
  static constexpr int kCodes = unit_code_bytes(type), kScales = unit_scale_bytes(type);
  static constexpr int kStageBytes = kTiles * (kCodes + kScales);
  static constexpr int kStages = ring_bytes(type) / kStageBytes;

  // Of units first, first + step, ... below n_units of tiles tile, tile + 1, ..., the last of which is taken
  // again for those that are missing.
  LANNER_DEVICE UnitRing(std::byte* shared, const Weight& w, int tile, int first, int step)
      : shared_(shared), lane_(lane_index()), n_left_((n_units(w) - first + step - 1) / step), step_(step) {
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
  int lane_, n_left_;
  uint32_t step_;
  int at_ = 0, free_ = (kStages - 1) * kStageBytes;
};

// Which part of a matrix a warp sums: every n_splits-th unit, from `split`, of its tiles from `tile`.
struct SkinnyShare {
  int n_splits, split, tile;
};
LANNER_DEVICE SkinnyShare skinny_share(int warp, int n_splits, int n_tiles) {
  return {n_splits, warp % n_splits, (block_x() * kSkinnyWarps + warp) / n_splits * n_tiles};
}

// Waits for the kernel ahead; then the number of tokens, and for the end kQkv their slots in shared memory,
// which others may read behind the next barrier.
LANNER_DEVICE int begin_tokens(const LinearArgs& args, int32_t* slots) {
  let_next_kernel_begin();
  wait_for_kernel_ahead();
  const int n_tokens = *args.rows.n;
  if (args.end == LinearEnd::kQkv && thread_index() < n_tokens)
    slots[thread_index()] = kv_slot(args.qkv, thread_index());
  return n_tokens;
}

// Sums of a warp, fragment f = i kBlocks + t of tile i and block t of tokens. A lane has rows g and g + 8 of
// kLaneTokens tokens, those of row g first: of 4 kLaneTokens tokens to a block those from kLaneTokens c.
template <int kTiles, int kBlocks, int kLaneTokens>
struct SkinnySums {
  float of[kTiles][kBlocks][2 * kLaneTokens] = {};

  // Puts them where the ring of the warp was, pair by pair.
  LANNER_DEVICE void leave(std::byte* ring) const {
    copy_async_wait<0>();
    sync_warp();
    LANNER_UNROLL for (int f = 0; f < kTiles * kBlocks; ++f) {
      const float (&v)[2 * kLaneTokens] = of[f / kBlocks][f % kBlocks];
      LANNER_UNROLL for (int p = 0; p < kLaneTokens; ++p) pair(ring, f, p) = {v[2 * p], v[2 * p + 1]};
    }
  }

  // Adds up what the warps of a tile left, in a fixed order, multiplies by scale_of(token), and ends the
  // rows. `ring` is this warp's, `ring_bytes` from one to the next.
  template <class ScaleOf>
  static LANNER_DEVICE void end(const LinearArgs& args, const SkinnyShare& share, std::byte* ring,
                                int ring_bytes, int n_tokens, const int32_t* slots, ScaleOf scale_of) {
    const int g = lane_index() / 4, c = lane_index() % 4;
    std::byte* first = ring - share.split * ring_bytes;
    for (int f = share.split; f < kTiles * kBlocks; f += share.n_splits) {
      const int tile = share.tile + f / kBlocks;
      if (tile >= n_tiles(args.weight)) break;
      float sum[2 * kLaneTokens] = {};
      for (int s = 0; s < share.n_splits; ++s) {
        LANNER_UNROLL for (int p = 0; p < kLaneTokens; ++p) {
          const Float2 v = pair(first + s * ring_bytes, f, p);
          sum[2 * p] += v.x, sum[2 * p + 1] += v.y;
        }
      }
      LANNER_UNROLL for (int e = 0; e < kLaneTokens; ++e) {
        const int token = (f % kBlocks * 4 + c) * kLaneTokens + e;
        if (token >= n_tokens) continue;
        const float scale = scale_of(token);
        const int32_t slot = args.end == LinearEnd::kQkv ? slots[token] : 0;
        end_rows(args, tile, g, token, slot, sum[e] * scale, sum[kLaneTokens + e] * scale);
      }
    }
  }

 private:
  static LANNER_DEVICE Float2& pair(std::byte* ring, int f, int p) {
    return reinterpret_cast<Float2*>(ring)[(f * kLaneTokens + p) * kWarpSize + lane_index()];
  }
};

// Warps that share a tile: 1, 2, 4 or 8. Blocks run in waves of as many as the GPU has room for. A last wave
// takes as long as its blocks have bytes, but not less than a quarter of a whole one: that many blocks keep
// DRAM busy. The fewest splits within 5 % of the best, as each adds to what is merged. `kernel` is the one
// for the fewest tokens of this type of weight, though fewer of others may fit at once: so sums keep their
// order whatever the number of tokens.
inline int skinny_splits(const Weight& w, const void* kernel, size_t shared_bytes) {
  const int n_threads = kSkinnyWarps * kWarpSize, n_groups = ceil_div(n_tiles(w), skinny_tiles(w.type, 1));
  const int at_once = device_info().n_sms * blocks_per_sm(kernel, n_threads, shared_bytes);
  check(at_once > 0, "linear: the GPU has no room for a block of ", shared_bytes, " bytes of shared memory");
  const auto time = [&](int n_splits) {
    const int n_blocks = ceil_div(n_groups * n_splits, kSkinnyWarps), last = n_blocks % at_once;
    const double last_wave = last == 0 ? 0.0 : std::max(0.25, static_cast<double>(last) / at_once);
    return (n_blocks / at_once + last_wave) / n_splits;
  };
  const int most = std::min(kSkinnyWarps, n_units(w));
  double best = time(1);
  for (int n = 2; n <= most; n *= 2) best = std::min(best, time(n));
  int n_splits = 1;
  while (time(n_splits) > 1.05 * best) n_splits *= 2;
  return n_splits;
}

// Of a launch for so many tokens at most.
inline LaunchShape skinny_shape(const Weight& w, int most_tokens, int n_splits, size_t shared_bytes) {
  const int n_groups = ceil_div(n_tiles(w), skinny_tiles(w.type, most_tokens));
  return {.grid = {ceil_div(n_groups * n_splits, kSkinnyWarps)},
          .n_threads = kSkinnyWarps * kWarpSize,
          .shared_bytes = shared_bytes,
          .overlaps = true};
}

}  // namespace lanner::cuda
