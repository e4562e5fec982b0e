// What kernels of rows share: elements of a row in registers, and sums over a warp and a block.
#pragma once

#include <cmath>
#include <type_traits>

#include "cuda/device.h"
#include "cuda/op.h"

namespace lanner::cuda {

enum class ValueType : int32_t { kFloat32, kBf16 };
inline constexpr int element_bytes(ValueType t) { return t == ValueType::kFloat32 ? 4 : 2; }

inline constexpr float kLowest = -3.402823466e38f;  // of the finite numbers
inline constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

LANNER_DEVICE uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }
LANNER_DEVICE float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }

// --- N elements that lie together, 2 to 16 bytes in one instruction -------------------------------------
template <int N>
LANNER_DEVICE void load(const float* p, float (&x)[N]) {
  static_assert(N == 1 || N % 4 == 0);
  if constexpr (N == 1) {
    x[0] = *p;
  } else {
    LANNER_UNROLL
    for (int i = 0; i < N; i += 4) {
      const Bytes16 v = load16(p + i);
      x[i] = float_of(v.x), x[i + 1] = float_of(v.y), x[i + 2] = float_of(v.z), x[i + 3] = float_of(v.w);
    }
  }
}
LANNER_DEVICE void unpack_to(uint32_t pair, float* x) {
  const Float2 v = unpack_bf16(pair);
  x[0] = v.x, x[1] = v.y;
}
LANNER_DEVICE void unpack(const Bytes16& v, float (&x)[8]) {
  unpack_to(v.x, x), unpack_to(v.y, x + 2), unpack_to(v.z, x + 4), unpack_to(v.w, x + 6);
}
template <int N>
LANNER_DEVICE void load(const bf16* p, float (&x)[N]) {
  static_assert(N == 1 || N == 4 || N == 8);
  if constexpr (N == 1) {
    x[0] = to_float(*p);
  } else if constexpr (N == 4) {
    const Bytes8 v = *reinterpret_cast<const Bytes8*>(p);
    unpack_to(v.x, x), unpack_to(v.y, x + 2);
  } else {
    unpack(load16(p), x);
  }
}

template <int N>
LANNER_DEVICE void store(float* p, const float (&x)[N]) {
  if constexpr (N == 1) {
    *p = x[0];
  } else {
    LANNER_UNROLL
    for (int i = 0; i < N; i += 4)
      store16(p + i, {bits_of(x[i]), bits_of(x[i + 1]), bits_of(x[i + 2]), bits_of(x[i + 3])});
  }
}
template <int N>
LANNER_DEVICE void store(bf16* p, const float (&x)[N]) {
  if constexpr (N == 1)
    *p = to_bf16(x[0]);
  else if constexpr (N == 4)
    *reinterpret_cast<Bytes8*>(p) = {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3])};
  else
    store16(p, {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])});
}

// --- sums, the same bits in every lane ------------------------------------------------------------------
LANNER_DEVICE float warp_sum(float x) {
  LANNER_UNROLL
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
  return x;
}
LANNER_DEVICE float warp_max(float x) {
  LANNER_UNROLL
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) x = fmaxf(x, shuffle_xor(x, mask));
  return x;
}

// Over the block, through a float of shared memory for each warp, which another sum may not use.
LANNER_DEVICE float block_sum(float x, float* of_warps) {
  x = warp_sum(x);
  const int warp = warp_index();
  if (lane_index() == 0) of_warps[warp] = x;
  sync_block();
  return warp_sum(lane_index() < block_threads() / kWarpSize ? of_warps[lane_index()] : 0.0f);
}
LANNER_DEVICE float block_max(float x, float* of_warps) {
  x = warp_max(x);
  const int warp = warp_index();
  if (lane_index() == 0) of_warps[warp] = x;
  sync_block();
  return warp_max(lane_index() < block_threads() / kWarpSize ? of_warps[lane_index()] : kLowest);
}

// Every kernel of rows begins so, in all its blocks: the next kernel may set out, and waits for this one.
LANNER_DEVICE void begin_kernel() {
  wait_for_kernel_ahead();
  let_next_kernel_begin();
}

}  // namespace lanner::cuda
