// Sums of rows, each by several blocks of which the last one adds what all have: right as variant 0.
#include "cuda/runtime.h"
#include "planted.h"

namespace lanner::cuda {

inline constexpr int kSumsThreads = 128, kSumsWarps = kSumsThreads / kWarpSize;

LANNER_DEVICE float sum_of_warp(float x) {
  for (int mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
  return x;
}

template <SumsVariant variant>
LANNER_DEVICE float sum_of_block(float x, float* shared) {
  if (variant == SumsVariant::divergent_shuffle) {
    if (lane_index() < 16) x = sum_of_warp(x);
  } else if (variant == SumsVariant::divergent_collectives) {
    if (lane_index() < 16)
      x = shuffle_xor(x, 1);
    else
      x = shuffle(x, 0);
  } else {
    x = sum_of_warp(x);
  }
  if (lane_index() == 0) shared[thread_index() / kWarpSize] = x;
  if (variant == SumsVariant::divergent_barrier) {
    if (thread_index() < 64) sync_block();
  } else if (variant != SumsVariant::no_barrier) {
    sync_block();
  }
  float sum = 0;
  for (int w = 0; w < kSumsWarps + (variant == SumsVariant::unwritten); ++w) sum += shared[w];
  sync_block();
  return sum;
}

template <SumsVariant variant>
LANNER_KERNEL(kSumsThreads, 1)
planted_sums_kernel(SumsArgs s) {
  float* shared = shared_memory<float>();
  int32_t* arrival = shared_memory<int32_t>() + 16;
  if (variant != SumsVariant::before_kernel_ahead) wait_for_kernel_ahead();
  const int row = block_y(), split = block_x(), share = s.columns / s.n_splits;
  const float* x = s.x + int64_t{row} * s.columns + split * share;
  float sum = 0;
  for (int i = 4 * thread_index(); i < share; i += 4 * kSumsThreads) {
    const float* p = x + i - (variant == SumsVariant::misaligned && i > 0 ? 1 : 0);
    const Float4 v = *reinterpret_cast<const Float4*>(p);
    sum += (v.x + v.y) + (v.z + v.w);
  }
  if (variant == SumsVariant::before_kernel_ahead) wait_for_kernel_ahead();
  sum = sum_of_block<variant>(sum, shared);

  float* partials = s.partials + row * s.n_splits;
  const int thread = thread_index();
  if (variant == SumsVariant::early_fence) fence_device();
  if (thread == 32) partials[variant == SumsVariant::same_bytes ? 0 : split] = sum;
  sync_block();
  if (thread == 0) {
    if (variant != SumsVariant::no_fence && variant != SumsVariant::early_fence) fence_device();
    if (variant == SumsVariant::atomic_and_store && split == 1) s.n_done[row] = 0;
    *arrival = atomic_add(s.n_done + row, 1);
  }
  sync_block();
  if (variant == SumsVariant::order_of_arrival) {  // 24 bits of float32 do not hold the sum in every order
    if (thread == 0) s.out[row] = s.out[row] + sum;
    if (thread == 0) fence_device(), atomic_add(s.n_done + row, 0);
    return;
  }
  if (*arrival != s.n_splits - 1) return;
  if (thread == 0) {
    float all = 0;
    for (int i = 0; i < s.n_splits; ++i) all += partials[i];
    s.out[row] = all;
    s.n_done[row] = 0;
  }
}

LANNER_KERNEL(kSumsThreads, 1) fill_kernel(float* x, int n) {
  for (int i = block_x() * kSumsThreads + thread_index(); i < n; i += grid_x() * kSumsThreads) x[i] += 0.0f;
}

void planted_sums(SumsVariant variant, const SumsArgs& s, int rows) {
  launch(fill_kernel, {{3}, kSumsThreads}, nullptr, const_cast<float*>(s.x), rows * s.columns);
  const LaunchShape shape = {{s.n_splits, rows}, kSumsThreads, 128, true};
  for_variant<SumsVariant>(variant, [&](auto v) { launch(planted_sums_kernel<v.value>, shape, nullptr, s); });
}

}  // namespace lanner::cuda
