// d = a b^T by wgmma: a warpgroup that copies tiles into a ring, another that multiplies them. Right as
// variant 0.
#include "cuda/runtime.h"
#include "cuda/runtime_sm90.h"
#include "planted.h"

namespace lanner::cuda {

inline constexpr int kWgmmaM = 64, kWgmmaN = 256, kWgmmaStages = 2;
struct alignas(1024) WgmmaStage {
  bf16 a[kWgmmaM * kTileColumns], b[kWgmmaN * kTileColumns];
};
struct WgmmaShared {
  WgmmaStage stages[kWgmmaStages];
  Barrier full[kWgmmaStages], empty[kWgmmaStages];
};
inline constexpr uint32_t kWgmmaStageBytes = sizeof(WgmmaStage);

template <WgmmaVariant variant>
inline constexpr bool kStoresA =
    variant == WgmmaVariant::ordinary_stores || variant == WgmmaVariant::ordinary_stores_unfenced;

template <WgmmaVariant variant>
LANNER_DEVICE void planted_produce(WgmmaShared& s, const GemmArgs& g, const TensorMap* a,
                                   const TensorMap* b) {
  const int thread = thread_index();
  for (int step = 0; step < g.k / kTileColumns; ++step) {
    const int i = step % kWgmmaStages;
    if (variant != WgmmaVariant::no_wait_for_empty) barrier_wait(&s.empty[i], 1 - step / kWgmmaStages % 2);
    if (kStoresA<variant>) {
      for (int chunk = thread; chunk < kWgmmaM * 8; chunk += kWarpgroupThreads) {
        const int r = chunk / 8, c = chunk % 8, row = block_y() * kWgmmaM + r;
        store16(s.stages[i].a + r * kTileColumns + (c ^ r % 8) * 8,
                load16(g.a + int64_t{row < g.m ? row : g.m - 1} * g.k + step * kTileColumns + 8 * c));
      }
      if (variant == WgmmaVariant::ordinary_stores) fence_async_proxy();
      sync_threads(1, kWarpgroupThreads);
    }
    if (thread == 0) {
      const uint32_t n_bytes = kStoresA<variant> ? sizeof s.stages[i].b : kWgmmaStageBytes;
      barrier_arrive_expect(&s.full[i], variant == WgmmaVariant::half_the_bytes ? n_bytes / 2 : n_bytes);
      if (!kStoresA<variant>)
        load_tile(s.stages[i].a, a, &s.full[i], block_y() * kWgmmaM, step * kTileColumns);
      load_tile(s.stages[i].b, b, &s.full[i], block_x() * kWgmmaN, step * kTileColumns);
    }
  }
}

template <WgmmaVariant variant>
LANNER_DEVICE void planted_consume(WgmmaShared& s, const GemmArgs& g) {
  float d[128];
  for (int i = 0; i < 128; ++i) d[i] = 0;
  const int thread = thread_index() % kWarpgroupThreads;
  for (int step = 0; step < g.k / kTileColumns; ++step) {
    const int i = step % kWgmmaStages;
    if (variant != WgmmaVariant::no_wait_for_full) barrier_wait(&s.full[i], step / kWgmmaStages % 2);
    if (variant != WgmmaVariant::no_wgmma_fence) wgmma_fence();
    const uint64_t a = make_descriptor(s.stages[i].a), b = make_descriptor(s.stages[i].b);
    for (int k = 0; k < kTileColumns; k += 16)
      wgmma_bf16(d, advance_descriptor(a, k),
                 advance_descriptor(b, variant == WgmmaVariant::wrong_step ? 0 : k), true);
    wgmma_commit();
    if (variant == WgmmaVariant::touched && step == 1) d[5] *= 2;
    if (variant == WgmmaVariant::early_release && thread == 0) barrier_arrive(&s.empty[i]);
    wgmma_wait<0>();
    if (variant != WgmmaVariant::early_release && thread == 0) barrier_arrive(&s.empty[i]);
    if (variant == WgmmaVariant::extra_arrival && thread == 1) barrier_arrive(&s.empty[i]);
  }
  const int row = block_y() * kWgmmaM + thread / 32 * 16 + thread % 32 / 4;
  for (int i = 0; i < 128; ++i) {
    const int r = row + i % 4 / 2 * 8, c = block_x() * kWgmmaN + i / 4 * 8 + thread % 4 * 2 + i % 2;
    if (r < g.m && c < g.n) g.d[int64_t{r} * g.n + c] = d[i];
  }
}

template <WgmmaVariant variant>
LANNER_KERNEL(2 * kWarpgroupThreads, 1)
planted_wgmma_kernel(GemmArgs g, LANNER_GRID_CONSTANT const TensorMap a,
                     LANNER_GRID_CONSTANT const TensorMap b) {
  WgmmaShared& s = *shared_memory<WgmmaShared>();
  if (thread_index() == 0) {
    for (int i = 0; i < kWgmmaStages; ++i) {
      barrier_init(&s.full[i], variant == WgmmaVariant::wrong_count ? 2 : 1);
      barrier_init(&s.empty[i], 1);
    }
    if (variant != WgmmaVariant::no_init_fence) fence_barrier_init();
  }
  sync_block();
  if (thread_index() < kWarpgroupThreads)
    planted_produce<variant>(s, g, &a, &b);
  else
    planted_consume<variant>(s, g);
}

void planted_wgmma(WgmmaVariant variant, const GemmArgs& g) {
  const TensorMap a = make_tensor_map(g.a, g.m, g.k, kWgmmaM), b = make_tensor_map(g.b, g.n, g.k, kWgmmaN);
  const LaunchShape shape = {{(g.n + kWgmmaN - 1) / kWgmmaN, (g.m + kWgmmaM - 1) / kWgmmaM},
                             2 * kWarpgroupThreads,
                             sizeof(WgmmaShared)};
  for_variant<WgmmaVariant>(variant,
                            [&](auto v) { launch(planted_wgmma_kernel<v.value>, shape, nullptr, g, a, b); });
}

}  // namespace lanner::cuda
