// The functions of cuda/device.h on the CPU: the thread of the GPU is the fiber that runs.
//
// Kernel units are instrumented (emulator/access.cpp), so what must not be seen as an access of the kernel is
// called, not inlined: everything below that touches more than its arguments ends in a function of
// emulated::.
#pragma once

#include <bit>
#include <cmath>

#include "cuda/device.h"

namespace lanner::cuda {

namespace emulated {
int thread_index();
int block_index(int axis);
int grid_size(int axis);
int block_threads();
void* shared_memory();

Bytes16 load16(const void* p);
void store16(void* p, Bytes16 value);

void sync_block();
void sync_warp();
void sync_threads(int id, int n_threads);
uint32_t shuffle_xor(uint32_t x, int lane_mask);
uint32_t shuffle(uint32_t x, int from_lane);
uint32_t shuffle_up(uint32_t x, int n_lanes);
uint32_t ballot(bool x);

void fence_device();
int32_t atomic_add(int32_t* p, int32_t x);
uint32_t atomic_max(uint32_t* p, uint32_t x);
void wait_for_kernel_ahead();

void copy_async16(void* shared, const void* global, bool valid);
void copy_async_commit();
void copy_async_wait(int n_groups);

Bytes16 load_matrices(const void* row, int n_matrices, bool transposed);
Float4 mma_bf16(Float4 d, Bytes16 a, Bytes8 b);
Bytes16 mma_int8(Bytes16 d, Bytes16 a, Bytes8 b);
}  // namespace emulated

// --- where a thread is -------------------------------------------------------------------------------
LANNER_DEVICE int thread_index() { return emulated::thread_index(); }
LANNER_DEVICE int lane_index() { return emulated::thread_index() % kWarpSize; }
LANNER_DEVICE int warp_index() {  // a shuffle on a GPU, which lanes alone would wait for
  return static_cast<int>(emulated::shuffle(static_cast<uint32_t>(emulated::thread_index() / kWarpSize), 0));
}
LANNER_DEVICE int block_x() { return emulated::block_index(0); }
LANNER_DEVICE int block_y() { return emulated::block_index(1); }
LANNER_DEVICE int block_z() { return emulated::block_index(2); }
LANNER_DEVICE int grid_x() { return emulated::grid_size(0); }
LANNER_DEVICE int grid_y() { return emulated::grid_size(1); }
LANNER_DEVICE int grid_z() { return emulated::grid_size(2); }
LANNER_DEVICE int block_threads() { return emulated::block_threads(); }
template <class T>
LANNER_DEVICE T* shared_memory() {
  return static_cast<T*>(emulated::shared_memory());
}

// --- numbers -----------------------------------------------------------------------------------------
namespace emulated {
// Results of .ftz instructions: what is too small for a normal number is zero.
inline float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
// To float32 so that a second rounding, to bf16, gives what one rounding would.
inline float rounded_to_odd(double x) {
  float y = static_cast<float>(x);
  if (static_cast<double>(y) == x || x != x) return y;
  if (std::fabs(static_cast<double>(y)) > std::fabs(x)) y = std::nextafter(y, 0.0f);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(y) | 1);
}
}  // namespace emulated

LANNER_DEVICE float to_float(bf16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }
LANNER_DEVICE float to_float(f16 x) {
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fff) << 13;
  const float y = magnitude >= 0x0f800000u ? std::bit_cast<float>(magnitude | 0x7f800000u)
                                           : std::bit_cast<float>(magnitude) * 0x1p112f;
  return x.bits & 0x8000 ? -y : y;
}
LANNER_DEVICE bf16 to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if (x != x) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
LANNER_DEVICE uint32_t pack_bf16(float first, float second) {
  return to_bf16(first).bits | static_cast<uint32_t>(to_bf16(second).bits) << 16;
}
LANNER_DEVICE Float2 unpack_bf16(uint32_t pair) {
  return {std::bit_cast<float>(pair << 16), std::bit_cast<float>(pair & 0xffff0000u)};
}
LANNER_DEVICE Float2 unpack_f16(uint32_t pair) {
  return {to_float(f16{static_cast<uint16_t>(pair)}), to_float(f16{static_cast<uint16_t>(pair >> 16)})};
}
LANNER_DEVICE uint32_t fma_bf16(uint32_t a, uint32_t b, uint32_t c) {
  const Float2 x = unpack_bf16(a), y = unpack_bf16(b), z = unpack_bf16(c);
  return pack_bf16(emulated::rounded_to_odd(static_cast<double>(x.x) * y.x + z.x),
                   emulated::rounded_to_odd(static_cast<double>(x.y) * y.y + z.y));
}
LANNER_DEVICE float exp2_approx(float x) { return emulated::flushed(std::exp2(emulated::flushed(x))); }
LANNER_DEVICE float log2_approx(float x) { return std::log2(emulated::flushed(x)); }
LANNER_DEVICE float rcp_approx(float x) { return emulated::flushed(1.0f / emulated::flushed(x)); }
LANNER_DEVICE float rsqrt_approx(float x) { return 1.0f / std::sqrt(emulated::flushed(x)); }
LANNER_DEVICE float tanh_approx(float x) { return std::tanh(x); }
LANNER_DEVICE uint32_t select_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = a | static_cast<uint64_t>(b) << 32;
  uint32_t y = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t choice = selector >> (4 * i);
    uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (choice & 7))) & 0xff;
    if (choice & 8) byte = byte & 0x80 ? 0xff : 0;  // its sign, eight times
    y |= byte << (8 * i);
  }
  return y;
}
LANNER_DEVICE uint32_t and_or(uint32_t x, uint32_t mask, uint32_t bits) { return (x & mask) | bits; }

// --- memory ------------------------------------------------------------------------------------------
LANNER_DEVICE Bytes16 load16(const void* p) { return emulated::load16(p); }
LANNER_DEVICE Bytes16 load16_once(const void* global) { return emulated::load16(global); }
LANNER_DEVICE Bytes16 load16_volatile(const void* global) { return emulated::load16(global); }
LANNER_DEVICE void store16(void* p, Bytes16 value) { emulated::store16(p, value); }

// --- meeting ---------------------------------------------------------------------------------------------
LANNER_DEVICE void sync_block() { emulated::sync_block(); }
LANNER_DEVICE void sync_warp() { emulated::sync_warp(); }
LANNER_DEVICE void sync_threads(int id, int n_threads) { emulated::sync_threads(id, n_threads); }
LANNER_DEVICE uint32_t shuffle_xor(uint32_t x, int lane_mask) { return emulated::shuffle_xor(x, lane_mask); }
LANNER_DEVICE uint32_t shuffle(uint32_t x, int from_lane) { return emulated::shuffle(x, from_lane); }
LANNER_DEVICE uint32_t shuffle_up(uint32_t x, int n_lanes) { return emulated::shuffle_up(x, n_lanes); }
LANNER_DEVICE float shuffle_xor(float x, int lane_mask) {
  return std::bit_cast<float>(emulated::shuffle_xor(std::bit_cast<uint32_t>(x), lane_mask));
}
LANNER_DEVICE float shuffle(float x, int from_lane) {
  return std::bit_cast<float>(emulated::shuffle(std::bit_cast<uint32_t>(x), from_lane));
}
LANNER_DEVICE float shuffle_up(float x, int n_lanes) {
  return std::bit_cast<float>(emulated::shuffle_up(std::bit_cast<uint32_t>(x), n_lanes));
}
LANNER_DEVICE uint32_t ballot(bool x) { return emulated::ballot(x); }

// --- between blocks --------------------------------------------------------------------------------------
LANNER_DEVICE void fence_device() { emulated::fence_device(); }
LANNER_DEVICE int32_t atomic_add(int32_t* p, int32_t x) { return emulated::atomic_add(p, x); }
LANNER_DEVICE uint32_t atomic_max(uint32_t* p, uint32_t x) { return emulated::atomic_max(p, x); }
LANNER_DEVICE void wait_for_kernel_ahead() { emulated::wait_for_kernel_ahead(); }
LANNER_DEVICE void let_next_kernel_begin() {}

// --- asynchronous copies ---------------------------------------------------------------------------------
LANNER_DEVICE void copy_async16(void* shared, const void* global, bool valid) {
  emulated::copy_async16(shared, global, valid);
}
LANNER_DEVICE void copy_async16_first(void* shared, const void* global) {
  emulated::copy_async16(shared, global, true);
}
LANNER_DEVICE void copy_async_commit() { emulated::copy_async_commit(); }
template <int N>
LANNER_DEVICE void copy_async_wait() {
  emulated::copy_async_wait(N);
}

// --- matrices --------------------------------------------------------------------------------------------
// By
// value: an array whose address left the kernel would have all its accesses instrumented.
LANNER_DEVICE void load_matrices(uint32_t (&r)[4], const void* row) {
  const Bytes16 v = emulated::load_matrices(row, 4, false);
  r[0] = v.x, r[1] = v.y, r[2] = v.z, r[3] = v.w;
}
LANNER_DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  const Bytes16 v = emulated::load_matrices(row, 4, true);
  r[0] = v.x, r[1] = v.y, r[2] = v.z, r[3] = v.w;
}
LANNER_DEVICE void load_matrices(uint32_t (&r)[2], const void* row) {
  const Bytes16 v = emulated::load_matrices(row, 2, false);
  r[0] = v.x, r[1] = v.y;
}
LANNER_DEVICE void load_matrices_transposed(uint32_t (&r)[2], const void* row) {
  const Bytes16 v = emulated::load_matrices(row, 2, true);
  r[0] = v.x, r[1] = v.y;
}
LANNER_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const Float4 v = emulated::mma_bf16({d[0], d[1], d[2], d[3]}, {a[0], a[1], a[2], a[3]}, {b[0], b[1]});
  d[0] = v.x, d[1] = v.y, d[2] = v.z, d[3] = v.w;
}
LANNER_DEVICE void mma_int8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const auto bits = [&d](int i) { return static_cast<uint32_t>(d[i]); };
  const Bytes16 v =
      emulated::mma_int8({bits(0), bits(1), bits(2), bits(3)}, {a[0], a[1], a[2], a[3]}, {b[0], b[1]});
  const uint32_t sums[4] = {v.x, v.y, v.z, v.w};
  for (int i = 0; i < 4; ++i) d[i] = static_cast<int32_t>(sums[i]);
}

}  // namespace lanner::cuda
