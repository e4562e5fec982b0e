// What kernels may use of an H100 beyond device.h: barriers in shared memory that count bytes, copies of
// whole tiles by the tensor memory accelerator, and matrix instructions of four warps that read shared
// memory.
//
// Of GPUs, only sm_90a has them. A kernel that uses them has its body under #if LANNER_HAS_SM90A, so that its
// unit compiles for every architecture; launchers ask device_info().sm_version == 90.
#pragma once

#include "cuda/device.h"

#if defined(LANNER_CUDA_EMULATED) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LANNER_HAS_SM90A 1
#else
#define LANNER_HAS_SM90A 0
#endif

namespace lanner::cuda {

inline constexpr int kWarpgroupThreads = 128;  // four warps, the first a multiple of four

// Describes a matrix of bf16 in global memory and the tiles that are copied of it: 64 columns wide, which are
// the 128 bytes of the swizzle. Made by the host (runtime_sm90.h), passed to the kernel by value as
// LANNER_GRID_CONSTANT const TensorMap, used there by its address.
struct alignas(128) TensorMap {
  uint64_t opaque[16];
};
inline constexpr int kTileColumns = 64;

// --- barriers -------------------------------------------------------------------------------------------
// A barrier in shared memory is in phase 0, 1, 0, ... It completes a phase and enters the next one when
// n_arrivals threads have arrived and all the bytes that were expected have come. The count starts again
// then.
struct alignas(8) Barrier {
  uint64_t state;
};
LANNER_DEVICE void barrier_init(Barrier* shared, int n_arrivals);
// By the thread that initialized them, after it did and before sync_block(): the copies see them too.
LANNER_DEVICE void fence_barrier_init();
LANNER_DEVICE void barrier_arrive(Barrier* shared);
LANNER_DEVICE void barrier_arrive_expect(Barrier* shared, uint32_t n_bytes);  // expects them, then arrives
// Returns when the phase of this parity is complete: at once, if that is the phase before the current one. So
// parity 1 of a new barrier does not wait. What was written before the arrivals, and copied, is visible.
LANNER_DEVICE void barrier_wait(Barrier* shared, uint32_t parity);

// --- copies of tiles ------------------------------------------------------------------------------------
// By one thread: the tile whose first element is (row, column) goes to `shared`, aligned to 1024 bytes, as
// rows of 128 bytes of which row r has its 16-byte chunk c at c ^ (r % 8). Elements outside the matrix come
// as zeros, and count: box_rows * 128 bytes arrive at the barrier.
LANNER_DEVICE void load_tile(void* shared, const TensorMap* map, Barrier* barrier, int row, int column);
LANNER_DEVICE void prefetch_tensor_map(const TensorMap* map);

// Between this thread's ordinary writes to shared memory and what load_tile or wgmma do there afterwards.
LANNER_DEVICE void fence_async_proxy();

// --- matrices -------------------------------------------------------------------------------------------
// Describes an operand in shared memory as load_tile leaves it, rows of k: the address of row 0, a multiple
// of 8 rows of the tile and so aligned to 1024 bytes.
LANNER_DEVICE uint64_t make_descriptor(const void* shared);
// The same rows, `columns` further along k: a multiple of 16 below kTileColumns.
LANNER_DEVICE uint64_t advance_descriptor(uint64_t descriptor, int columns);

// By all 128 threads of a warpgroup: d = a b^T, plus d where `accumulate`; (64, 256) = (64, 16) (256, 16)^T.
// Thread t of the warpgroup, with w = t / 32, g = (t % 32) / 4 and c = 2 (t % 4), holds for 0 <= j < 32
//   d[4 j + 0], d[4 j + 1]: [16 w + g][8 j + c], [..][8 j + c + 1]    d[4 j + 2], d[4 j + 3]: row 16 w + g +
//   8
// It runs on: the operands must stay and d must not be touched until wgmma_wait() of its group.
LANNER_DEVICE void wgmma_bf16(float (&d)[128], uint64_t a, uint64_t b, bool accumulate);
LANNER_DEVICE void wgmma_fence();   // before the first wgmma, and after d was touched by anything else
LANNER_DEVICE void wgmma_commit();  // closes a group
template <int N>
LANNER_DEVICE void wgmma_wait();  // all but the last N groups of this warpgroup are done

// By all 128 threads: they keep N registers each, a multiple of 8. More wait for those that others give back.
template <int N>
LANNER_DEVICE void give_registers();
template <int N>
LANNER_DEVICE void take_registers();

}  // namespace lanner::cuda

#ifdef __CUDACC__
#include "cuda/ptx/device_sm90.h"
#elif defined(LANNER_CUDA_EMULATED)
#include "cuda/emulator/device_sm90.h"
#endif
