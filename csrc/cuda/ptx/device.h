// The functions of cuda/device.h as PTX of sm_80.
#pragma once

#include "cuda/device.h"

namespace lanner::cuda {

// --- where a thread is ----------------------------------------------------------------------------------
LANNER_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
LANNER_DEVICE int lane_index() { return static_cast<int>(threadIdx.x % kWarpSize); }
LANNER_DEVICE int warp_index() { return __shfl_sync(~0u, static_cast<int>(threadIdx.x / kWarpSize), 0); }
LANNER_DEVICE int block_x() { return static_cast<int>(blockIdx.x); }
LANNER_DEVICE int block_y() { return static_cast<int>(blockIdx.y); }
LANNER_DEVICE int block_z() { return static_cast<int>(blockIdx.z); }
LANNER_DEVICE int grid_x() { return static_cast<int>(gridDim.x); }
LANNER_DEVICE int grid_y() { return static_cast<int>(gridDim.y); }
LANNER_DEVICE int grid_z() { return static_cast<int>(gridDim.z); }
LANNER_DEVICE int block_threads() { return static_cast<int>(blockDim.x); }

extern __shared__ __align__(1024) unsigned char dynamic_shared_memory[];
template <class T>
LANNER_DEVICE T* shared_memory() {
  return reinterpret_cast<T*>(dynamic_shared_memory);
}
LANNER_DEVICE uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// --- numbers ----------------------------------------------------------------------------------------------
LANNER_DEVICE float to_float(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
LANNER_DEVICE float to_float(f16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
LANNER_DEVICE bf16 to_bf16(float x) {
  bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
LANNER_DEVICE uint32_t pack_bf16(float first, float second) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
}
LANNER_DEVICE Float2 unpack_bf16(uint32_t pair) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
}
LANNER_DEVICE Float2 unpack_f16(uint32_t pair) {
  return {to_float(f16{static_cast<uint16_t>(pair)}), to_float(f16{static_cast<uint16_t>(pair >> 16)})};
}
LANNER_DEVICE uint32_t fma_bf16(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
LANNER_DEVICE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
LANNER_DEVICE float log2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
LANNER_DEVICE float rcp_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
LANNER_DEVICE float rsqrt_approx(float x) {
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
LANNER_DEVICE float tanh_approx(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
LANNER_DEVICE uint32_t select_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  return __byte_perm(a, b, selector);
}
LANNER_DEVICE uint32_t and_or(uint32_t x, uint32_t mask, uint32_t bits) {
  uint32_t y;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(y) : "r"(x), "r"(mask), "r"(bits));
  return y;
}

// --- memory -----------------------------------------------------------------------------------------------
LANNER_DEVICE Bytes16 load16(const void* p) { return *static_cast<const Bytes16*>(p); }
LANNER_DEVICE Bytes16 load16_once(const void* global) {
  Bytes16 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(global));
  return v;
}
LANNER_DEVICE Bytes16 load16_volatile(const void* global) {
  Bytes16 v;
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(global)
               : "memory");
  return v;
}
LANNER_DEVICE void store16(void* p, Bytes16 value) { *static_cast<Bytes16*>(p) = value; }

// --- meeting ---------------------------------------------------------------------------------------------
LANNER_DEVICE void sync_block() { __syncthreads(); }
LANNER_DEVICE void sync_warp() { __syncwarp(); }
LANNER_DEVICE void sync_threads(int id, int n_threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n_threads) : "memory");
}
LANNER_DEVICE float shuffle_xor(float x, int lane_mask) { return __shfl_xor_sync(~0u, x, lane_mask); }
LANNER_DEVICE uint32_t shuffle_xor(uint32_t x, int lane_mask) { return __shfl_xor_sync(~0u, x, lane_mask); }
LANNER_DEVICE float shuffle(float x, int from_lane) { return __shfl_sync(~0u, x, from_lane); }
LANNER_DEVICE uint32_t shuffle(uint32_t x, int from_lane) { return __shfl_sync(~0u, x, from_lane); }
LANNER_DEVICE float shuffle_up(float x, int n_lanes) { return __shfl_up_sync(~0u, x, n_lanes); }
LANNER_DEVICE uint32_t shuffle_up(uint32_t x, int n_lanes) { return __shfl_up_sync(~0u, x, n_lanes); }
LANNER_DEVICE uint32_t ballot(bool x) { return __ballot_sync(~0u, x); }

// --- between blocks --------------------------------------------------------------------------------------
LANNER_DEVICE void fence_device() { __threadfence(); }
LANNER_DEVICE int32_t atomic_add(int32_t* p, int32_t x) { return atomicAdd(p, x); }
LANNER_DEVICE uint32_t atomic_max(uint32_t* p, uint32_t x) { return atomicMax(p, x); }
LANNER_DEVICE void wait_for_kernel_ahead() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
LANNER_DEVICE void let_next_kernel_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// --- asynchronous copies ---------------------------------------------------------------------------------
LANNER_DEVICE void copy_async16(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}
LANNER_DEVICE void copy_async16_first(void* shared, const void* global) {
  // What createpolicy.fractional.L2::evict_first with 1.0 is on every architecture that ptxas knows, and
  // CUTLASS's EVICT_FIRST; made anew for each copy it takes five instructions.
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(global), "n"(0x12F0000000000000)
               : "memory");
}
LANNER_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
LANNER_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// --- matrices --------------------------------------------------------------------------------------------
LANNER_DEVICE void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
LANNER_DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
LANNER_DEVICE void load_matrices(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
LANNER_DEVICE void load_matrices_transposed(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
LANNER_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
LANNER_DEVICE void mma_int8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace lanner::cuda
