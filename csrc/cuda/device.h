// What kernels may use of a GPU: about fifty small functions, and nothing else.
//
// Kernels are written once. nvcc gives each function the PTX of ptx/device.h; with LANNER_CUDA_EMULATED any
// other compiler gives it the emulation of emulator/device.h, in which a thread of the GPU is a fiber of the
// CPU, so that the tests run the same source on a machine without a GPU. Kernels name no header, type or
// variable of CUDA.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define LANNER_DEVICE __device__ __forceinline__
#define LANNER_BOTH __host__ __device__ __forceinline__
// A kernel of at most max_threads threads a block, of which min_blocks fit on a multiprocessor.
#define LANNER_KERNEL(max_threads, min_blocks) __global__ void __launch_bounds__(max_threads, min_blocks)
#define LANNER_GRID_CONSTANT __grid_constant__  // of a parameter whose address a kernel takes
#define LANNER_UNROLL _Pragma("unroll")
#define LANNER_ROLLED _Pragma("unroll 1")  // a loop whose body is long enough
#else
#define LANNER_DEVICE inline
#define LANNER_BOTH inline
#define LANNER_KERNEL(max_threads, min_blocks) void
#define LANNER_GRID_CONSTANT
#define LANNER_UNROLL
#define LANNER_ROLLED
#endif

namespace lanner::cuda {

inline constexpr int kWarpSize = 32;

// Sixteen bytes: what one lane loads or stores at once.
struct alignas(16) Bytes16 {
  uint32_t x, y, z, w;
};
struct alignas(8) Bytes8 {
  uint32_t x, y;
};
struct alignas(8) Float2 {
  float x, y;
};
struct alignas(16) Float4 {
  float x, y, z, w;
};
// The upper half of a float32. Two of them travel in a uint32_t, the first in the lower half.
struct alignas(2) bf16 {
  uint16_t bits;
};
struct alignas(2) f16 {
  uint16_t bits;
};

// --- where a thread is ----------------------------------------------------------------------------------
LANNER_DEVICE int thread_index();  // in the block
LANNER_DEVICE int lane_index();    // in the warp, thread_index() % 32
LANNER_DEVICE int warp_index();    // in the block, known to be the same in all lanes, which all take part
LANNER_DEVICE int block_x();
LANNER_DEVICE int block_y();
LANNER_DEVICE int block_z();
LANNER_DEVICE int grid_x();
LANNER_DEVICE int grid_y();
LANNER_DEVICE int grid_z();
LANNER_DEVICE int block_threads();

// The dynamic shared memory of the block, aligned to 1024 bytes: all the shared memory there is.
template <class T>
LANNER_DEVICE T* shared_memory();

// --- numbers ----------------------------------------------------------------------------------------------
LANNER_DEVICE float to_float(bf16 x);
LANNER_DEVICE float to_float(f16 x);
LANNER_DEVICE bf16 to_bf16(float x);                          // to nearest, ties to even
LANNER_DEVICE uint32_t pack_bf16(float first, float second);  // two of them, rounded alike
LANNER_DEVICE Float2 unpack_bf16(uint32_t pair);
LANNER_DEVICE Float2 unpack_f16(uint32_t pair);
LANNER_DEVICE uint32_t fma_bf16(uint32_t a, uint32_t b, uint32_t c);  // a * b + c of pairs, rounded once
LANNER_DEVICE float exp2_approx(float x);                             // 2 ulp; -inf gives 0
LANNER_DEVICE float log2_approx(float x);
LANNER_DEVICE float rcp_approx(float x);                                         // 1 ulp
LANNER_DEVICE float rsqrt_approx(float x);                                       // 2 ulp
LANNER_DEVICE float tanh_approx(float x);                                        // absolute error 2^-10.987
LANNER_DEVICE uint32_t select_bytes(uint32_t a, uint32_t b, uint32_t selector);  // prmt
LANNER_DEVICE uint32_t and_or(uint32_t x, uint32_t mask, uint32_t bits);  // (x & mask) | bits, one lop3

// --- memory -----------------------------------------------------------------------------------------------
LANNER_DEVICE Bytes16 load16(const void* p);                // 16 bytes, aligned, of global or shared memory
LANNER_DEVICE Bytes16 load16_once(const void* global);      // read-only data that passes by L1: weights
LANNER_DEVICE Bytes16 load16_volatile(const void* global);  // what another block has just written, past L1
LANNER_DEVICE void store16(void* p, Bytes16 value);

// --- meeting ---------------------------------------------------------------------------------------------
LANNER_DEVICE void sync_block();
LANNER_DEVICE void sync_warp();
// n_threads of the block, whole warps, that name the same barrier 1 <= id < 16.
LANNER_DEVICE void sync_threads(int id, int n_threads);

// All 32 lanes of the warp take part in each of these.
LANNER_DEVICE float shuffle_xor(float x, int lane_mask);
LANNER_DEVICE uint32_t shuffle_xor(uint32_t x, int lane_mask);
LANNER_DEVICE float shuffle(float x, int from_lane);
LANNER_DEVICE uint32_t shuffle(uint32_t x, int from_lane);
LANNER_DEVICE float shuffle_up(float x, int n_lanes);  // lanes below n_lanes keep their own
LANNER_DEVICE uint32_t shuffle_up(uint32_t x, int n_lanes);
LANNER_DEVICE uint32_t ballot(bool x);  // bit per lane

// --- between blocks --------------------------------------------------------------------------------------
// What this thread wrote before is visible to all before what it writes after.
LANNER_DEVICE void fence_device();
LANNER_DEVICE int32_t atomic_add(int32_t* p, int32_t x);  // returns what was there; global or shared
LANNER_DEVICE uint32_t atomic_max(uint32_t* p, uint32_t x);

// A kernel launched with LaunchShape::overlaps begins before the one ahead of it has ended (sm_90 and later):
// it must wait before it touches what that one writes. Nothing on older GPUs.
LANNER_DEVICE void wait_for_kernel_ahead();
LANNER_DEVICE void let_next_kernel_begin();

// --- asynchronous copies (sm_80) -------------------------------------------------------------------------
// 16 bytes from global to shared memory; zeros where `valid` is false, and then `global` is not read.
LANNER_DEVICE void copy_async16(void* shared, const void* global, bool valid = true);
LANNER_DEVICE void copy_async16_first(void* shared, const void* global);  // weights: L2 may drop them first
LANNER_DEVICE void copy_async_commit();                                   // closes a group
template <int N>
LANNER_DEVICE void copy_async_wait();  // all but the last N groups of this thread have arrived; no barrier

// --- matrices --------------------------------------------------------------------------------------------
// Four 8 x 8 matrices of bf16 from shared memory, lane l giving the address of row l % 8 of matrix l / 8, 16
// bytes; afterwards lane l holds elements 2 (l % 4) and the next of row l / 4 of matrix i in r[i];
// _transposed: of column.
LANNER_DEVICE void load_matrices(uint32_t (&r)[4], const void* row);
LANNER_DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void* row);
LANNER_DEVICE void load_matrices(uint32_t (&r)[2], const void* row);  // of lanes 0 to 15
LANNER_DEVICE void load_matrices_transposed(uint32_t (&r)[2], const void* row);

// d += a b, (16, 8) += (16, 16) (16, 8), with g = lane / 4 and c = 2 (lane % 4):
//   a: [g][c,c+1], [g+8][c,c+1], [g][c+8,c+9], [g+8][c+8,c+9]   b: [c,c+1][g], [c+8,c+9][g]
//   d: [g][c], [g][c+1], [g+8][c], [g+8][c+1]
LANNER_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

// d += a b of signed bytes, (16, 8) += (16, 32) (32, 8), with d as above and c = 4 (lane % 4):
//   a: [g][c..c+3], [g+8][c..c+3], [g][c+16..c+19], [g+8][c+16..c+19]   b: [c..c+3][g], [c+16..c+19][g]
LANNER_DEVICE void mma_int8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

}  // namespace lanner::cuda

#ifdef __CUDACC__
#include "cuda/ptx/device.h"
#elif defined(LANNER_CUDA_EMULATED)
#include "cuda/emulator/device.h"
#endif  // else: host code of a build for GPUs, which calls none of them
