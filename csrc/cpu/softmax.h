// softmax, log_softmax and logsumexp of one row, in chunks (ops/array_rows.h).
//
// A row takes two passes: the chunks (maximum, then exponentials and their sum, while the chunk is in L1) and
// the output. The exponentials are kept for the second pass where they stay in cache and computed again where
// they would not; both give the same bits.
#pragma once

#include <cmath>

#include "ops/array_rows.h"
#include "simd/math.h"
#include "simd/tail.h"

namespace lanner::LANNER_ISA_NS {
namespace {

struct Span {
  int64_t first;
  int n;
};
inline Span span_of_chunk(const SoftmaxRow& row, int64_t chunk) {
  const int64_t first = chunk * kSoftmaxChunk, left = row.n - first;
  return {first, static_cast<int>(left < kSoftmaxChunk ? left : kSoftmaxChunk)};
}
inline int64_t n_chunks(const SoftmaxRow& row) { return (row.n + kSoftmaxChunk - 1) / kSoftmaxChunk; }

// Largest of n elements that is not NaN, at least the lowest finite number: x - max is then -inf where x is.
inline float max_of(const float* x, int n) {
  const F32 lowest = set1(-__FLT_MAX__);
  F32 best[4] = {lowest, lowest, lowest, lowest};
  int i = 0;
  for (; i + 64 <= n; i += 64)
    for (int k = 0; k < 4; ++k) best[k] = max(load(x + i + 16 * k), best[k]);
  for (; i + 16 <= n; i += 16) best[0] = max(load(x + i), best[0]);
  if (i < n) best[1] = max(keep_first(load_n(x + i, n - i), n - i, lowest), best[1]);
  return hmax(max(max(best[0], best[1]), max(best[2], best[3])));
}

// Sum of exp(x - m); keeps the exponentials where kept is not null.
template <bool keep>
inline float sum_exp(const float* x, float m, float* kept, int n) {
  const F32 shift = set1(m);
  F32 sum[4] = {zero(), zero(), zero(), zero()};
  auto full = [&](int i) {
    const F32 e = exp_of_nonpositive(load(x + i) - shift);
    if constexpr (keep) store(kept + i, e);
    return e;
  };
  int i = 0;
  for (; i + 64 <= n; i += 64)
    for (int k = 0; k < 4; ++k) {
      prefetch_far(x + i + 16 * k + kSoftmaxChunk);  // what the next pass over a maximum reads
      sum[k] = sum[k] + full(i + 16 * k);
    }
  for (; i + 16 <= n; i += 16) sum[0] = sum[0] + full(i);
  if (i < n) {
    const F32 e = keep_first(exp_of_nonpositive(load_n(x + i, n - i) - shift), n - i, zero());
    if constexpr (keep) store_n(kept + i, n - i, e);
    sum[1] = sum[1] + e;
  }
  return hsum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

void sum_chunks(const SoftmaxRow& row, int64_t begin, int64_t end) {
  for (int64_t c = begin; c < end; ++c) {
    const Span s = span_of_chunk(row, c);
    const float* x = row.x + s.first;
    const float m = max_of(x, s.n);
    row.sums[c] = {
        m, row.kept ? sum_exp<true>(x, m, row.kept + s.first, s.n) : sum_exp<false>(x, m, nullptr, s.n)};
  }
}

// The chunks of a row merged in their order.
ChunkSum merge_chunks(const SoftmaxRow& row) {
  const int64_t n = n_chunks(row);
  ChunkSum all = {-__FLT_MAX__, 0};
  for (int64_t c = 0; c < n; ++c) all.max = row.sums[c].max > all.max ? row.sums[c].max : all.max;
  if (n == 1) return row.sums[0];
  for (int64_t c = 0; c < n; ++c)
    all.sum += row.sums[c].sum * ::exp(static_cast<double>(row.sums[c].max) - all.max);
  return all;
}

// out[i .. i + 16) = value(i, 16), the ends of the span with fewer lanes.
template <class Value>
inline void write_span(float* out, int n, bool stream, Value value) {
  int i = 0;
  if (stream) {
    const int ahead = static_cast<int>((64 - reinterpret_cast<uintptr_t>(out) % 64) % 64 / sizeof(float));
    i = ahead < n ? ahead : n;
    if (i > 0) store_n(out, i, value(0, i));
    for (; i + 16 <= n; i += 16) store_past_caches(out + i, value(i, 16));
  }
  for (; i + 16 <= n; i += 16) store(out + i, value(i, 16));
  if (i < n) store_n(out + i, n - i, value(i, n - i));
}

void write_chunks(const SoftmaxRow& row, const ChunkSum& all, int64_t begin, int64_t end) {
  const F32 top = set1(all.max), log_sum = set1(row.logarithm ? static_cast<float>(::log(all.sum)) : 0.0f);
  for (int64_t c = begin; c < end; ++c) {
    const Span s = span_of_chunk(row, c);
    const float *x = row.x + s.first, *kept = row.kept + (row.kept ? s.first : 0);
    float* out = row.out + s.first;
    const float m = row.sums[c].max;
    if (row.logarithm) {
      write_span(out, s.n, row.stream, [=](int i, int n) { return (load_upto(x + i, n) - top) - log_sum; });
      continue;
    }
    const double share = m == all.max ? 1.0 : ::exp(static_cast<double>(m) - all.max);
    const F32 shift = set1(m), factor = set1(static_cast<float>(share / all.sum));
    if (row.kept)
      write_span(out, s.n, row.stream, [=](int i, int n) { return load_upto(kept + i, n) * factor; });
    else
      write_span(out, s.n, row.stream,
                 [=](int i, int n) { return exp_of_nonpositive(load_upto(x + i, n) - shift) * factor; });
  }
  if (row.stream) finish_stores();
}

// log of the sum of exp(x): NaN where one is NaN, otherwise infinite where one is.
float log_sum(const SoftmaxRow& row) {
  const ChunkSum all = merge_chunks(row);
  if (all.max <= __FLT_MAX__) return static_cast<float>(::log(all.sum) + all.max);
  for (int64_t i = 0; i < row.n; ++i)
    if (row.x[i] != row.x[i]) return row.x[i];
  return all.max;
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
