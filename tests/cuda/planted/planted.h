// Kernels of the tests of the emulation, each in a right variant, `none`, and in variants with one mistake.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/device.h"

namespace lanner::cuda {

#define LANNER_VARIANT_NAME(name) name,
#define LANNER_VARIANTS(Enum, List) enum class Enum { none, List(LANNER_VARIANT_NAME) count };

#define LANNER_GEMM_VARIANTS(X) \
  X(no_barrier_after_wait)      \
  X(weak_wait) X(no_barrier_before_refill) X(store_past_end) X(no_swizzle) X(wrong_fragment) X(short_shared)
LANNER_VARIANTS(GemmVariant, LANNER_GEMM_VARIANTS)

struct GemmArgs {
  const bf16* a;  // (m, k)
  const bf16* b;  // (n, k)
  float* d;       // (m, n)
  int m, n, k;
};
void planted_gemm(GemmVariant variant, const GemmArgs& args);

#define LANNER_SUMS_VARIANTS(X) \
  X(divergent_shuffle)          \
  X(divergent_collectives)      \
  X(divergent_barrier)          \
  X(no_barrier)                 \
  X(no_fence)                   \
  X(early_fence)                \
  X(same_bytes) X(unwritten) X(misaligned) X(order_of_arrival) X(before_kernel_ahead) X(atomic_and_store)
LANNER_VARIANTS(SumsVariant, LANNER_SUMS_VARIANTS)

struct SumsArgs {
  const float* x;   // (rows, columns)
  float* partials;  // (rows, splits)
  int32_t* n_done;  // (rows) zero before and after
  float* out;       // (rows)
  int columns, n_splits;
};
void planted_sums(SumsVariant variant, const SumsArgs& args, int rows);

#define LANNER_WGMMA_VARIANTS(X) \
  X(no_wait_for_empty)           \
  X(no_wait_for_full)            \
  X(half_the_bytes)              \
  X(wrong_count)                 \
  X(early_release)               \
  X(no_init_fence)               \
  X(ordinary_stores) X(ordinary_stores_unfenced) X(wrong_step) X(touched) X(no_wgmma_fence) X(extra_arrival)
LANNER_VARIANTS(WgmmaVariant, LANNER_WGMMA_VARIANTS)
void planted_wgmma(WgmmaVariant variant, const GemmArgs& args);

// One warp, or warpgroup, does one thing.
void run_load_matrices(const bf16* rows, uint32_t* out, int n_matrices, bool transposed);
void run_mma(const uint32_t* a, const uint32_t* b, float* d);
void run_mma_int8(const uint32_t* a, const uint32_t* b, int32_t* d);
void run_load_tile(const bf16* matrix, bf16* shared, int rows, int columns, int box_rows, int row,
                   int column);

// f(std::integral_constant) of the variant.
template <class Variant, int i = 0, class F>
void for_variant(Variant variant, F f) {
  if (static_cast<int>(variant) == i) return f(std::integral_constant<Variant, static_cast<Variant>(i)>());
  if constexpr (i + 1 < static_cast<int>(Variant::count)) for_variant<Variant, i + 1>(variant, f);
}

}  // namespace lanner::cuda
