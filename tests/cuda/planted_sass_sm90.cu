// Kernels of sm_90a that ptxas warns of, for the tests of the gates.
#include "cuda/device_sm90.h"

namespace lanner::cuda {

// Changes sums that the tensor cores are still adding to.
LANNER_KERNEL(128, 1) serialized_kernel(float* out, const char* tiles, int n) {
#if LANNER_HAS_SM90A
  float sums[128] = {};
  const uint64_t a = make_descriptor(tiles), b = make_descriptor(tiles + 8192);
  for (int i = 0; i < n; ++i) {
    wgmma_fence();
    wgmma_bf16(sums, a, b, true);
    sums[0] *= 2;
    wgmma_commit();
    wgmma_wait<0>();
  }
  for (int i = 0; i < 128; ++i) out[i * 128 + thread_index()] = sums[i];
#endif
}

}  // namespace lanner::cuda
