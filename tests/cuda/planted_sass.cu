// Kernels whose results are right and whose machine code is not as it should be, for the tests of the gates.
#include "cuda/device.h"

namespace lanner::cuda {

struct PlantedArgs {
  const float* x;
  float* out;
  int n;
};

// 96 sums, where three blocks of 512 threads leave 40 registers.
LANNER_KERNEL(512, 3) spilling_kernel(PlantedArgs args) {
  float sums[96];
  LANNER_UNROLL
  for (int i = 0; i < 96; ++i) sums[i] = 0;
  for (int k = 0; k < args.n; ++k) {
    LANNER_UNROLL
    for (int i = 0; i < 96; ++i) sums[i] += args.x[k * 96 + i] * sums[(i + 7) % 96];
  }
  LANNER_UNROLL
  for (int i = 0; i < 96; ++i) args.out[i * 512 + thread_index()] = sums[i];
}

// Four bytes a lane, where sixteen were meant.
LANNER_KERNEL(256, 1) narrow_kernel(PlantedArgs args) {
  const int i = (block_x() * 256 + thread_index()) * 4;
  if (i >= args.n) return;
  LANNER_UNROLL
  for (int j = 0; j < 4; ++j) args.out[i + j] = 2 * args.x[i + j];
}

// Asks for the next 16 bytes when the last have been used.
LANNER_KERNEL(128, 1) waiting_kernel(PlantedArgs args) {
  float sum = 0;
  _Pragma("unroll 1") for (int i = thread_index() * 4; i < args.n; i += 512) {
    const Bytes16 v = load16_once(args.x + i);
    sum += static_cast<float>(v.x ^ v.y ^ v.z ^ v.w);
  }
  args.out[thread_index()] = sum;
}

// The same with eight loads under way.
LANNER_KERNEL(128, 1) streaming_kernel(PlantedArgs args) {
  Bytes16 next[8];
  LANNER_UNROLL
  for (int j = 0; j < 8; ++j) next[j] = load16_once(args.x + thread_index() * 4 + j * 512);
  float sum = 0;
  _Pragma("unroll 1") for (int i = thread_index() * 4 + 4096; i < args.n; i += 4096) {
    LANNER_UNROLL
    for (int j = 0; j < 8; ++j) {
      const Bytes16 v = next[j];
      next[j] = load16_once(args.x + i + j * 512);
      sum += static_cast<float>(v.x ^ v.y ^ v.z ^ v.w);
    }
  }
  LANNER_UNROLL
  for (int j = 0; j < 8; ++j) sum += static_cast<float>(next[j].x ^ next[j].y ^ next[j].z ^ next[j].w);
  args.out[thread_index()] = sum;
}

// A product of matrices that spends its issue slots on addresses: two products a turn.
struct PlantedProduct {
  const uint32_t* a;
  const uint32_t* b;
  float* out;
  int n, stride;
};
LANNER_KERNEL(128, 1) starving_kernel(PlantedProduct args) {
  float d[4] = {0, 0, 0, 0};
  _Pragma("unroll 1") for (int k = 0; k < args.n; ++k) {
    uint32_t a[4], b[2];
    LANNER_UNROLL
    for (int i = 0; i < 4; ++i) a[i] = args.a[(k * 4 + i) * args.stride + thread_index() % (k + 3)];
    LANNER_UNROLL
    for (int i = 0; i < 2; ++i) b[i] = args.b[(k * 2 + i) * args.stride + thread_index() % (k + 5)];
    mma_bf16(d, a, b);
  }
  LANNER_UNROLL
  for (int i = 0; i < 4; ++i) args.out[i * 128 + thread_index()] = d[i];
}

}  // namespace lanner::cuda
