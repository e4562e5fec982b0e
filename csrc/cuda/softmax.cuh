#include "cuda/softmax.h"

namespace lanner::cuda {

// --- kernels ----------------------------------------------------------------------------------------------
// Three tiers, by where a row waits for its maximum and sum: in the registers of a warp, in shared memory, or
// in global memory, which is then read twice. The first two read and write each element once.

// 1024 elements are 32 registers a lane: a warp needs no barrier.
inline constexpr int kWarpCols = 1024, kWarpRows = 4;
// 32 KB of a row: three blocks fit even on the multiprocessors with 100 KB, so that some load while others
// store.
inline constexpr int kBlockBytes = 32 * 1024, kBlockThreads = 256;
// Loads ahead of the first use: 4 times 16 bytes of 512 threads are 32 KB.
inline constexpr int kLongThreads = 512, kAhead = 4;
// Less than this of a row is not worth a block.
inline constexpr int kLeastPart = 4096;

LANNER_DEVICE float exp_of(float y) { return exp2_approx(y * kLog2E); }

// What becomes of x - max.
struct Finish {
  float factor, log_sum;
  bool logarithm;
  LANNER_DEVICE float operator()(float y) const { return logarithm ? y - log_sum : exp_of(y) * factor; }
};
LANNER_DEVICE Finish finish_of(float sum, bool logarithm) {
  return {1.0f / sum, log2_approx(sum) * kLn2, logarithm};
}

template <class In, class Out, int N, int V>
LANNER_KERNEL(kWarpRows* kWarpSize, 1)
softmax_warp_kernel(SoftmaxArgs args) {
  begin_kernel();
  const int64_t row = int64_t{block_x()} * kWarpRows + warp_index();
  if (row >= *args.rows.n) return;
  const In* x = static_cast<const In*>(args.x) + row * args.cols;
  float e[V][N], m = kLowest, sum = 0;
  LANNER_UNROLL
  for (int v = 0; v < V; ++v) {
    const int col = (v * kWarpSize + lane_index()) * N;
    if (col < args.cols) {
      load(x + col, e[v]);
    } else {
      LANNER_UNROLL
      for (int i = 0; i < N; ++i) e[v][i] = -__builtin_inff();
    }
  }
  LANNER_UNROLL
  for (int v = 0; v < V; ++v) LANNER_UNROLL
  for (int i = 0; i < N; ++i) m = fmaxf(m, e[v][i]);
  m = warp_max(m);
  LANNER_UNROLL
  for (int v = 0; v < V; ++v) LANNER_UNROLL
  for (int i = 0; i < N; ++i) {
    const float y = e[v][i] - m, p = exp_of(y);
    sum += p;
    e[v][i] = args.logarithm ? y : p;
  }
  const Finish finish = finish_of(warp_sum(sum), args.logarithm);
  Out* out = static_cast<Out*>(args.out) + row * args.cols;
  LANNER_UNROLL
  for (int v = 0; v < V; ++v) {
    const int col = (v * kWarpSize + lane_index()) * N;
    if (col >= args.cols) continue;
    LANNER_UNROLL
    for (int i = 0; i < N; ++i) e[v][i] = args.logarithm ? e[v][i] - finish.log_sum : e[v][i] * finish.factor;
    store(out + col, e[v]);
  }
}

// A thread reads back from shared memory only what it put there itself.
template <class In, class Out, int N>
LANNER_KERNEL(kBlockThreads, 3)
softmax_block_kernel(SoftmaxArgs args) {
  begin_kernel();
  const int64_t row = block_x();
  if (row >= *args.rows.n) return;
  const In* x = static_cast<const In*>(args.x) + row * args.cols;
  In* kept = shared_memory<In>();
  float* of_warps = reinterpret_cast<float*>(shared_memory<unsigned char>() + kBlockBytes);
  const int first = thread_index() * N, cols = args.cols;
  constexpr int kStep = kBlockThreads * N;
  for (int col = first; col < cols; col += kStep) {
    if constexpr (N * sizeof(In) == 16) {
      copy_async16(kept + col, x + col);
    } else {
      float e[N];
      load(x + col, e);
      store(kept + col, e);
    }
  }
  copy_async_commit();
  copy_async_wait<0>();
  float m = kLowest, sum = 0;
  for (int col = first; col < cols; col += kStep) {
    float e[N];
    load(kept + col, e);
    LANNER_UNROLL
    for (int i = 0; i < N; ++i) m = fmaxf(m, e[i]);
  }
  m = block_max(m, of_warps);
  for (int col = first; col < cols; col += kStep) {
    float e[N];
    load(kept + col, e);
    LANNER_UNROLL
    for (int i = 0; i < N; ++i) sum += exp_of(e[i] - m);
  }
  const Finish finish = finish_of(block_sum(sum, of_warps + kWarpSize), args.logarithm);
  Out* out = static_cast<Out*>(args.out) + row * cols;
  for (int col = first; col < cols; col += kStep) {
    float e[N];
    load(kept + col, e);
    LANNER_UNROLL
    for (int i = 0; i < N; ++i) e[i] = finish(e[i] - m);
    store(out + col, e);
  }
}

struct MaxSum {
  float max, sum;
};

// Of the elements [begin, end) of a row, the same in every thread.
template <class In, int N>
LANNER_DEVICE MaxSum max_sum(const In* x, int begin, int end, float* of_warps) {
  constexpr int kStep = kLongThreads * N;
  float m = kLowest, sum = 0;
  for (int at = begin; at < end; at += kAhead * kStep) {
    float e[kAhead][N], highest = kLowest;
    LANNER_UNROLL
    for (int k = 0; k < kAhead; ++k) {
      const int col = at + k * kStep + thread_index() * N;
      if (col < end) {
        load(x + col, e[k]);
      } else {
        LANNER_UNROLL
        for (int i = 0; i < N; ++i) e[k][i] = -__builtin_inff();
      }
    }
    LANNER_UNROLL
    for (int k = 0; k < kAhead; ++k) LANNER_UNROLL
    for (int i = 0; i < N; ++i) highest = fmaxf(highest, e[k][i]);
    if (highest > m) sum *= exp_of(m - highest), m = highest;
    LANNER_UNROLL
    for (int k = 0; k < kAhead; ++k) LANNER_UNROLL
    for (int i = 0; i < N; ++i) sum += exp_of(e[k][i] - m);
  }
  const float all = block_max(m, of_warps);
  return {all, block_sum(sum * exp_of(m - all), of_warps + kWarpSize)};
}

template <class In, class Out, int N>
LANNER_DEVICE void write_softmax(const In* x, Out* out, int begin, int end, const MaxSum& of_row,
                                 bool logarithm) {
  const Finish finish = finish_of(of_row.sum, logarithm);
  constexpr int kStep = kLongThreads * N;
  for (int at = begin; at < end; at += kAhead * kStep) {
    float e[kAhead][N];
    LANNER_UNROLL
    for (int k = 0; k < kAhead; ++k) {
      const int col = at + k * kStep + thread_index() * N;
      if (col < end) load(x + col, e[k]);
    }
    LANNER_UNROLL
    for (int k = 0; k < kAhead; ++k) {
      const int col = at + k * kStep + thread_index() * N;
      if (col >= end) continue;
      LANNER_UNROLL
      for (int i = 0; i < N; ++i) e[k][i] = finish(e[k][i] - of_row.max);
      store(out + col, e[k]);
    }
  }
}

template <class In, class Out, int N>
LANNER_KERNEL(kLongThreads, 2)
softmax_long_kernel(SoftmaxArgs args) {
  begin_kernel();
  const int64_t row = block_x();
  if (row >= *args.rows.n) return;
  const In* x = static_cast<const In*>(args.x) + row * args.cols;
  Out* out = static_cast<Out*>(args.out) + row * args.cols;
  const MaxSum all = max_sum<In, N>(x, 0, args.cols, shared_memory<float>());
  write_softmax<In, Out, N>(x, out, 0, args.cols, all, args.logarithm);
}

// A row in grid_x() parts: a block for each, first for its sum, then, with the sums of all, for its output.
struct Part {
  int begin, end;
};
template <int N>
LANNER_DEVICE Part part_of_row(int cols) {
  const int n = ceil_div(ceil_div(cols, N), grid_x()) * N, begin = block_x() * n;
  return {begin, begin + n < cols ? begin + n : cols};
}

template <class In, int N>
LANNER_KERNEL(kLongThreads, 2)
softmax_parts_kernel(SoftmaxArgs args) {
  begin_kernel();
  const int64_t row = block_y();
  if (row >= *args.rows.n) return;
  const In* x = static_cast<const In*>(args.x) + row * args.cols;
  const Part part = part_of_row<N>(args.cols);
  const MaxSum sum = max_sum<In, N>(x, part.begin, part.end, shared_memory<float>());
  if (thread_index() != 0) return;
  float* to = args.parts + (row * kSoftmaxParts + block_x()) * 2;
  to[0] = sum.max, to[1] = sum.sum;
}

template <class In, class Out, int N>
LANNER_KERNEL(kLongThreads, 1)
softmax_merge_kernel(SoftmaxArgs args) {
  begin_kernel();
  const int64_t row = block_y();
  if (row >= *args.rows.n) return;
  const float* parts = args.parts + row * kSoftmaxParts * 2;
  MaxSum all{kLowest, 0};
  for (int i = lane_index(); i < grid_x(); i += kWarpSize) all.max = fmaxf(all.max, parts[2 * i]);
  all.max = warp_max(all.max);
  for (int i = lane_index(); i < grid_x(); i += kWarpSize)
    all.sum += parts[2 * i + 1] * exp_of(parts[2 * i] - all.max);
  all.sum = warp_sum(all.sum);
  const In* x = static_cast<const In*>(args.x) + row * args.cols;
  Out* out = static_cast<Out*>(args.out) + row * args.cols;
  const Part part = part_of_row<N>(args.cols);
  write_softmax<In, Out, N>(x, out, part.begin, part.end, all, args.logarithm);
}

// --- launchers --------------------------------------------------------------------------------------------
// Blocks for each row: enough for two on every multiprocessor, if that leaves each of them something to do.
inline int n_softmax_parts(const SoftmaxArgs& args, int n_rows) {
  if (!args.parts) return 1;
  const int wanted = 2 * device_info().n_sms / n_rows, most = args.cols / kLeastPart;
  return wanted < most ? (wanted < kSoftmaxParts ? wanted : kSoftmaxParts)
                       : (most < kSoftmaxParts ? most : kSoftmaxParts);
}

template <class In, class Out, int N>
void softmax_rows(const SoftmaxArgs& args, int n_rows, Stream stream) {
  if (args.cols <= kWarpCols) {
    const LaunchShape shape{{ceil_div(n_rows, kWarpRows)}, kWarpRows * kWarpSize, 0, true};
    const auto with = [&](auto kernel) { launch(kernel, shape, stream, args); };
    constexpr int kMost = kWarpCols / kWarpSize / N;
    if (args.cols <= kWarpCols / 4)
      with(softmax_warp_kernel<In, Out, N, kMost / 4>);
    else if (args.cols <= kWarpCols / 2)
      with(softmax_warp_kernel<In, Out, N, kMost / 2>);
    else
      with(softmax_warp_kernel<In, Out, N, kMost>);
    return;
  }
  constexpr size_t kSums = 2 * kWarpSize * sizeof(float);
  if (int64_t{args.cols} * sizeof(In) <= kBlockBytes) {
    launch(softmax_block_kernel<In, Out, N>, {{n_rows}, kBlockThreads, kBlockBytes + kSums, true}, stream,
           args);
    return;
  }
  const int n_parts = n_softmax_parts(args, n_rows);
  if (n_parts <= 1) {
    launch(softmax_long_kernel<In, Out, N>, {{n_rows}, kLongThreads, kSums, true}, stream, args);
    return;
  }
  const Grid grid{n_parts, n_rows};
  launch(softmax_parts_kernel<In, N>, {grid, kLongThreads, kSums, true}, stream, args);
  launch(softmax_merge_kernel<In, Out, N>, {grid, kLongThreads, 0, true}, stream, args);
}

// 16 bytes of the wider type at once where rows begin at such a border, else single elements.
template <class In, class Out>
void softmax_typed(const SoftmaxArgs& args, int n_rows, Stream stream) {
  constexpr int N = 16 / static_cast<int>(sizeof(In) > sizeof(Out) ? sizeof(In) : sizeof(Out));
  if (args.cols % N == 0)
    softmax_rows<In, Out, N>(args, n_rows, stream);
  else
    softmax_rows<In, Out, 1>(args, n_rows, stream);
}

void softmax(const SoftmaxArgs& args, const Bounds& bounds) {
  const int n_rows = args.rows.bound(bounds);
  if (n_rows == 0) return;
  const bool wide_in = args.x_type == ValueType::kFloat32, wide_out = args.out_type == ValueType::kFloat32;
  (wide_in
       ? (wide_out ? softmax_typed<float, float> : softmax_typed<float, bf16>)
       : (wide_out ? softmax_typed<bf16, float> : softmax_typed<bf16, bf16>))(args, n_rows, bounds.stream);
}

}  // namespace lanner::cuda
