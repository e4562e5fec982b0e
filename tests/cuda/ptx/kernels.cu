// Small kernels whose results NumPy knows, for the tests of the interpreter.
#include "cuda/device.h"

namespace lanner::cuda {

struct UnaryArgs {
  const float* x;
  float* out;
  int n;
};

// out: (8, n), a row for each function.
LANNER_KERNEL(128, 1) functions_kernel(UnaryArgs args) {
  const int i = block_x() * 128 + thread_index();
  if (i >= args.n) return;
  const float x = args.x[i];
  const float values[] = {
      exp2_approx(x), log2_approx(x),       rcp_approx(x), rsqrt_approx(x),
      tanh_approx(x), to_float(to_bf16(x)), x / 3.0f,      static_cast<float>(static_cast<int>(x))};
  LANNER_UNROLL
  for (int f = 0; f < 8; ++f) args.out[f * args.n + i] = values[f];
}

struct IntegerArgs {
  const int32_t* a;
  const int32_t* b;
  int64_t* out;
  int n;
};

LANNER_KERNEL(128, 1) integers_kernel(IntegerArgs args) {
  const int i = block_x() * 128 + thread_index();
  if (i >= args.n) return;
  const int32_t a = args.a[i], b = args.b[i];
  const auto ua = static_cast<uint32_t>(a), ub = static_cast<uint32_t>(b);
  const int64_t values[] = {int64_t{a} * b,
                            b ? a / b : 0,
                            b ? a % b : 0,
                            int64_t{ua} % (ub | 1),
                            a >> (b & 31),
                            static_cast<int64_t>(ua << (ub & 31)),
                            static_cast<int64_t>(select_bytes(ua, ub, 0x6240)),
                            static_cast<int64_t>(and_or(ua, 0x00ff00ff, ub)),
                            static_cast<int64_t>(ua >> 7 & 0x1ff),
                            a < b ? a : int64_t{b} << 20,
                            int64_t{a} / (int64_t{b} * b + 7),
                            static_cast<int64_t>((uint64_t{ua} << 32 | ub) >> 13)};
  LANNER_UNROLL
  for (int f = 0; f < 12; ++f) args.out[f * args.n + i] = values[f];
}

struct PairArgs {
  const uint32_t* a;
  const uint32_t* b;
  const uint32_t* c;
  uint32_t* fma;
  float* halves;  // of a as float16, (n, 2)
  int n;
};

LANNER_KERNEL(64, 1) pairs_kernel(PairArgs args) {
  const int i = thread_index();
  if (i >= args.n) return;
  args.fma[i] = fma_bf16(args.a[i], args.b[i], args.c[i]);
  const Float2 h = unpack_f16(args.a[i]);
  args.halves[2 * i] = h.x;
  args.halves[2 * i + 1] = h.y;
}

struct ProductArgs {
  const bf16* a;  // (16, k)
  const bf16* b;  // (8, k)
  float* out;     // (16, 8)
  int k;
  bool transposed;  // then b is (k, 8)
};

// Three groups of copies in flight; a and b of a step lie in one slot.
LANNER_KERNEL(32, 1) product_kernel(ProductArgs args) {
  constexpr int kSlot = 256 + 128;
  bf16* const slots = shared_memory<bf16>();
  const int l = lane_index();
  const int n_steps = args.k / 16;
  const auto fetch = [&](int step) {
    if (step < n_steps) {
      bf16* slot = slots + step % 4 * kSlot;
      copy_async16(slot + l * 8, args.a + l / 2 * args.k + step * 16 + l % 2 * 8);
      const bf16* b = args.transposed ? args.b + (step * 16 + l % 16) * 8
                                      : args.b + l / 2 * args.k + step * 16 + l % 2 * 8;
      if (l < 16) copy_async16_first(slot + 256 + l * 8, b);
    }
    copy_async_commit();
  };
  float d[4] = {0, 0, 0, 0};
  for (int step = 0; step < 3; ++step) fetch(step);
  for (int step = 0; step < n_steps; ++step) {
    copy_async_wait<2>();
    sync_warp();
    fetch(step + 3);
    bf16* slot = slots + step % 4 * kSlot;
    uint32_t a[4], b[2];
    load_matrices(a, slot + l % 16 * 16 + l / 16 * 8);
    if (args.transposed)
      load_matrices_transposed(b, slot + 256 + l % 16 * 8);
    else
      load_matrices(b, slot + 256 + l % 8 * 16 + l / 8 % 2 * 8);
    mma_bf16(d, a, b);
  }
  float* out = args.out + l / 4 * 8 + 2 * (l % 4);
  out[0] = d[0], out[1] = d[1], out[64] = d[2], out[65] = d[3];
}

struct ByteArgs {
  const uint32_t* a;  // fragments of the lanes
  const uint32_t* b;
  int32_t* d;
};

// d += a b of bytes, twice.
LANNER_KERNEL(32, 1) bytes_kernel(ByteArgs args) {
  const int l = thread_index();
  uint32_t a[4], b[2];
  int32_t d[4];
  for (int i = 0; i < 4; ++i) a[i] = args.a[4 * l + i], d[i] = args.d[4 * l + i];
  for (int i = 0; i < 2; ++i) b[i] = args.b[2 * l + i];
  mma_int8(d, a, b);
  mma_int8(d, a, b);
  for (int i = 0; i < 4; ++i) args.d[4 * l + i] = d[i];
}

struct SumArgs {
  const float* x;
  float* partial;  // (blocks)
  float* out;
  int32_t* n_done;
  uint32_t* largest;
  int n;
};

// The last block adds up what all have written.
LANNER_KERNEL(128, 1) sum_kernel(SumArgs args) {
  float* sums = shared_memory<float>();
  float sum = 0;
  for (int i = block_x() * 128 + thread_index(); i < args.n; i += grid_x() * 128) sum += args.x[i];
  LANNER_UNROLL
  for (int step = 16; step > 0; step /= 2) sum += shuffle_xor(sum, step);
  const int warp = warp_index();
  if (lane_index() == 0) sums[warp] = sum;
  atomic_max(args.largest, static_cast<uint32_t>(args.n - thread_index()));
  sync_block();
  if (thread_index() == 0) {
    args.partial[block_x()] = sums[0] + sums[1] + sums[2] + sums[3];
    fence_device();
    sums[4] = atomic_add(args.n_done, 1) == grid_x() - 1 ? 1.0f : 0.0f;
  }
  sync_block();
  if (sums[4] == 0.0f) return;
  float total = 0;
  for (int i = lane_index(); i < grid_x(); i += 32) total += args.partial[i];
  LANNER_UNROLL
  for (int step = 16; step > 0; step /= 2) total += shuffle_xor(total, step);
  if (thread_index() == 0) *args.out = total;
}

struct LaneArgs {
  const int32_t* trips;  // of each thread
  uint32_t* out;         // (6, threads)
};

// Loops of different lengths in one warp, then what needs the whole warp; two halves of the block meet apart.
LANNER_KERNEL(128, 1) lanes_kernel(LaneArgs args) {
  uint32_t* shared = shared_memory<uint32_t>();
  const int t = thread_index();
  uint32_t value = 1;
  for (int i = 0; i < args.trips[t]; ++i) value = value * 3 + static_cast<uint32_t>(i);
  args.out[t] = value;
  args.out[128 + t] = shuffle_up(value, 3);
  args.out[256 + t] = ballot(value & 1);
  args.out[384 + t] = shuffle(value, (t * 7) % 32);
  shared[t] = value;
  if (warp_index() < 2)
    sync_threads(1, 64);
  else
    sync_threads(2, 64);
  args.out[512 + t] = shared[t ^ 63];
  sync_block();
  if (t < 64) shared[t] += shared[t + 64];
  sync_block();
  args.out[640 + t] = shared[t % 64];
}

struct FaultArgs {
  float* x;
  int kind;
};

LANNER_KERNEL(64, 1) faults_kernel(FaultArgs args) {
  float* shared = shared_memory<float>();
  const int t = thread_index();
  if (args.kind == 0) args.x[t * 4] = 1;  // beyond the end
  if (args.kind == 1) store16(reinterpret_cast<char*>(args.x) + 4, {});
  if (args.kind == 2) args.x[t] = shared[t];  // never written
  if (args.kind == 3) shared[t * 4096] = 1;
  if (args.kind == 4 && t < 16) args.x[t] = shuffle_xor(1.0f, 1);
  if (args.kind == 5 && t < 32) sync_block(), args.x[t] = 1;
  if (args.kind == 6) {
    copy_async16(shared + t * 4, args.x);
    copy_async_commit();
    copy_async_wait<1>();
    args.x[t] = shared[t * 4];
  }
}

}  // namespace lanner::cuda
