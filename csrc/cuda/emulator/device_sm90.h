// The functions of cuda/device_sm90.h on the CPU.
#pragma once

#include "cuda/device_sm90.h"

namespace lanner::cuda {

namespace emulated {
void barrier_init(Barrier* shared, int n_arrivals);
void fence_barrier_init();
void barrier_arrive(Barrier* shared, uint32_t n_bytes);
void barrier_wait(Barrier* shared, uint32_t parity);
void load_tile(void* shared, const TensorMap* map, Barrier* barrier, int row, int column);
void fence_async_proxy();

uint64_t make_descriptor(const void* shared);
void wgmma_bf16(float* d, int n, uint64_t a, uint64_t b, bool accumulate);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int n_groups);
void set_registers(int n);
}  // namespace emulated

LANNER_DEVICE void barrier_init(Barrier* shared, int n_arrivals) {
  emulated::barrier_init(shared, n_arrivals);
}
LANNER_DEVICE void fence_barrier_init() { emulated::fence_barrier_init(); }
LANNER_DEVICE void barrier_arrive(Barrier* shared) { emulated::barrier_arrive(shared, 0); }
LANNER_DEVICE void barrier_arrive_expect(Barrier* shared, uint32_t n_bytes) {
  emulated::barrier_arrive(shared, n_bytes);
}
LANNER_DEVICE void barrier_wait(Barrier* shared, uint32_t parity) { emulated::barrier_wait(shared, parity); }

LANNER_DEVICE void load_tile(void* shared, const TensorMap* map, Barrier* barrier, int row, int column) {
  emulated::load_tile(shared, map, barrier, row, column);
}
LANNER_DEVICE void prefetch_tensor_map(const TensorMap*) {}
LANNER_DEVICE void fence_async_proxy() { emulated::fence_async_proxy(); }

LANNER_DEVICE uint64_t make_descriptor(const void* shared) { return emulated::make_descriptor(shared); }
LANNER_DEVICE uint64_t advance_descriptor(uint64_t descriptor, int columns) {
  return descriptor + static_cast<uint64_t>(columns * 2 / 16);
}
LANNER_DEVICE void wgmma_bf16(float (&d)[128], uint64_t a, uint64_t b, bool accumulate) {
  emulated::wgmma_bf16(d, 256, a, b, accumulate);
}
LANNER_DEVICE void wgmma_fence() { emulated::wgmma_fence(); }
LANNER_DEVICE void wgmma_commit() { emulated::wgmma_commit(); }
template <int N>
LANNER_DEVICE void wgmma_wait() {
  emulated::wgmma_wait(N);
}

template <int N>
LANNER_DEVICE void give_registers() {
  static_assert(N % 8 == 0 && N >= 24 && N <= 256);
  emulated::set_registers(N);
}
template <int N>
LANNER_DEVICE void take_registers() {
  static_assert(N % 8 == 0 && N >= 24 && N <= 256);
  emulated::set_registers(N);
}

}  // namespace lanner::cuda
