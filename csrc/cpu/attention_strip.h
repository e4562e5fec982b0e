// What paged attention and sdpa share: the tile kernels, the online softmax and the merging of chunks, on a
// strip of rows that meet the same keys.
//
//   scores   S = q K^T: positions in the lanes, K is laid out that way, so nothing is summed across lanes
//   softmax  running maximum and sum, once per tile of 64 positions
//   mix      O = O * alpha + P V: D in the lanes
#pragma once

#include <type_traits>
#include <utility>

#include "cpu/sources.h"
#include "ops/attention.h"
#include "simd/math.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// The least finite score. A maximum starts here, so that a score of -inf weighs exp(-inf) = 0.
constexpr float kLowestScore = -3.40282347e38f;

// A panel of V has 16 columns of a tile, and a line more: at a distance of 4096 bytes, all would share the
// same few lines of L1.
constexpr int kPanelFloats = (kTilePositions + 1) * 16;

// Running state of rows: O is the sum of exp(s - m) v, l of exp(s - m).
struct RowStates {
  float *m, *l;  // (n_rows), padded to a multiple of 16
  float* out;    // (n_rows, Dv)
};

// Everything that a strip of rows keeps in scratch.
struct Strip {
  int n_rows, dim, value_dim;
  int* starts;  // (n_rows) the first position that the row sees; both ascend with the row
  int* limits;  // (n_rows) positions from here on the row may not see
  float* q;     // (n_rows, D) scaled
  float* p;     // (up to kStripRows, 64) scores, then weights of a tile
  // (2, n_rows) what the rows of two states are multiplied by to be added; in a tile alpha, then the row
  // maxima, which overlap the alphas of the next part of a strip: parts take turns
  float* factors;
  float* sums;      // (n_rows, 16) weights of a tile, summed lane by lane
  RowStates chunk;  // the current chunk
  RowStates total;  // chunks merged so far
  float* keys;      // four blocks (D, 16) as float32; D rounded up to 16
  float* values;    // (64, Dv), or Dv / 16 panels of kPanelFloats

  Strip(std::byte*& scratch, int rows, int d, int dv) : n_rows(rows), dim(d), value_dim(dv) {
    starts = take<int>(scratch, rows);
    limits = take<int>(scratch, rows);
    q = take<float>(scratch, rows * d);
    p = take<float>(scratch, kStripRows * kTilePositions);
    factors = take<float>(scratch, 2 * padded_rows());
    sums = take<float>(scratch, 16 * padded_rows());
    for (RowStates* state : {&chunk, &total})
      *state = {take<float>(scratch, padded_rows()), take<float>(scratch, padded_rows()),
                take<float>(scratch, rows * dv)};
    keys = take<float>(scratch, kTilePositions / 16 * key_block_floats());
    values = take<float>(scratch, kPanelFloats * dv / 16);
  }

  int padded_rows() const { return (n_rows + 15) / 16 * 16; }
  int key_block_floats() const { return (dim + 15) / 16 * 16 * 16; }

  template <class T>
  static T* take(std::byte*& scratch, int n) {
    return reinterpret_cast<T*>(std::exchange(scratch, scratch + (sizeof(T) * n + 63) / 64 * 64));
  }
};

template <KvType type>
LANNER_INLINE F32 load_cache(const std::byte* p) {
  if constexpr (type == KvType::F32)
    return load(reinterpret_cast<const float*>(p));
  else if constexpr (type == KvType::F16)
    return load_f16(p);
  else
    return to_f32(load_i8(p));
}

// Calls memory for what is needed next, a line at every step of a kernel: it works while that computes, and a
// page of the cache, which no hardware prefetcher leaves, does not begin with a wait.
struct NextLines {
  const std::byte* p;
  int64_t step;

  // For what is at `next`; where that is nothing, for the same line of `here` again, which costs least.
  static LANNER_INLINE NextLines of(const std::byte* next, const std::byte* here, int64_t step) {
    return next ? NextLines{next, step} : NextLines{here, 0};
  }
  LANNER_INLINE void operator()() {
    prefetch(p);
    p += step;
  }
};
struct NoLines {
  LANNER_INLINE void operator()() const {}
};

// --- scores --------------------------------------------------------------------------------------------
// p[r][0..15] = q[r] . k over D in ascending order, for n rows and one block of 16 positions; with `vectors`
// further blocks, each block_bytes behind the one before.
template <KvType type, int n, int vectors = 1, class Next = NoLines>
LANNER_INLINE void score_rows(const float* q, const std::byte* keys, int dim, float* p,
                              int64_t block_bytes = 0, Next next = {}) {
  F32 acc[vectors][n];
  for (auto& block : acc)
    for (F32& x : block) x = zero();
#pragma GCC unroll 4
  for (int d = 0; d < dim; ++d, keys += 16 * element_bytes(type)) {
    next();
    for (int b = 0; b < vectors; ++b) {
      const F32 k = load_cache<type>(keys + b * block_bytes);
      for (int i = 0; i < n; ++i) acc[b][i] = fma(set1(q[i * dim + d]), k, acc[b][i]);
    }
  }
  for (int i = 0; i < n; ++i)
    for (int b = 0; b < vectors; ++b) store(p + i * kTilePositions + 16 * b, acc[b][i]);
}

// O[r][0..15] = O * alpha[r] + sum_j p[r][j] v[j], j ascending, for n rows and 16 columns of V; `stride`:
// bytes from one position to the next; with `vectors` further columns, each panel_bytes behind the ones
// before. Without alpha, O as it is.
template <KvType type, int n, int vectors = 1, class Next = NoLines>
LANNER_INLINE void mix_rows(const float* p, const std::byte* values, int64_t stride, int n_positions,
                            int value_dim, float* out, const float* alpha, int64_t panel_bytes = 0,
                            Next next = {}) {
  F32 acc[vectors][n];
  for (int b = 0; b < vectors; ++b)
    for (int i = 0; i < n; ++i) acc[b][i] = load(out + i * value_dim + 16 * b);
  for (int i = 0; alpha && i < n; ++i)
    for (int b = 0; b < vectors; ++b) acc[b][i] = acc[b][i] * set1(alpha[i]);
#pragma GCC unroll 4
  for (int j = 0; j < n_positions; ++j, values += stride) {
    next();
    for (int b = 0; b < vectors; ++b) {
      const F32 v = load_cache<type>(values + b * panel_bytes);
      for (int i = 0; i < n; ++i) acc[b][i] = fma(set1(p[i * kTilePositions + j]), v, acc[b][i]);
    }
  }
  for (int b = 0; b < vectors; ++b)
    for (int i = 0; i < n; ++i) store(out + i * value_dim + 16 * b, acc[b][i]);
}

// Vectors side by side of n rows. With one, a row or two have too few sums to hide the latency of an
// addition; with three rows and two vectors, sums no longer stay in registers.
constexpr int n_vectors(int n) { return 3 * n <= kFloatTile ? 2 : 1; }

// body(integral_constant n, first row) for groups of up to kFloatTile rows. The last two are of equal size,
// for the same reason.
template <class Body>
LANNER_INLINE void for_row_groups(int n_rows, Body body) {
  for (int r = 0, n; r < n_rows; r += n) {
    const int rest = n_rows - r;
    n = rest > kFloatTile && rest < 2 * kFloatTile ? (rest + 1) / 2 : rest < kFloatTile ? rest : kFloatTile;
    unroll<kFloatTile>([&](auto i) LANNER_INLINE_LAMBDA {
      if (n == i + 1) body(std::integral_constant<int, i + 1>{}, r);
    });
  }
}

// --- softmax -------------------------------------------------------------------------------------------
// Lane r is the sum of row r of (16, 16) floats: a chain of shuffles for each row would be twice the work.
inline F32 row_sums(const float* rows) {
  alignas(64) float columns[256];
  transpose16(reinterpret_cast<const std::byte*>(rows), 64, columns);
  F32 sum[16];
  for (int i = 0; i < 16; ++i) sum[i] = load(columns + 16 * i);
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; ++i) sum[i] = sum[i] + sum[i + half];
  return sum[0];
}

// Every row sees all positions of a tile.
struct SeeAll {};

// Turns the 64 scores of each row into weights and leaves in s.factors what the mix so far is multiplied by
// (alpha of mix_rows). seen(r, i, s): vector i of row r with -inf in the lanes that the row does not see, or
// SeeAll. Nothing branches on the scores: every second guess of a new maximum would be wrong.
template <class Seen>
LANNER_INLINE void soften(const Strip& s, Seen seen) {
  float* highest = s.factors + s.padded_rows();
  for (int r = 0; r < s.n_rows; ++r) {
    float* p = s.p + r * kTilePositions;
    F32 x[4];
    for (int i = 0; i < 4; ++i) {
      x[i] = load(p + 16 * i);
      if constexpr (!std::is_same_v<Seen, SeeAll>) store(p + 16 * i, x[i] = seen(r, i, x[i]));
    }
    highest[r] = hmax(max(max(x[0], x[1]), max(x[2], x[3])));
  }
  for (int r = 0; r < s.n_rows; r += 16) {
    const F32 before = load(s.chunk.m + r), m = max(load(highest + r), before);
    store(s.factors + r, exp_of_nonpositive(before - m));
    store(s.chunk.m + r, m);
  }
  for (int r = 0; r < s.n_rows; ++r) {
    float* p = s.p + r * kTilePositions;
    const F32 m = set1(s.chunk.m[r]);
    F32 sum = zero();
#pragma GCC unroll 1
    for (int i = 0; i < 4; i += 2, p += 32) {
      F32 w[] = {load(p) - m, load(p + 16) - m};
      exp_of_nonpositive(w);
      store(p, w[0]), store(p + 16, w[1]);
      sum = sum + (w[0] + w[1]);
    }
    store(s.sums + 16 * r, sum);
  }
  for (int r = 0; r < s.n_rows; r += 16)
    store(s.chunk.l + r, load(s.chunk.l + r) * load(s.factors + r) + row_sums(s.sums + 16 * r));
}

// total += part, where either may have seen nothing (m = kLowestScore, l = 0, O = 0).
inline void merge(const Strip& s, const RowStates& part) {
  float *a = s.factors, *b = s.factors + s.padded_rows();
  for (int r = 0; r < s.n_rows; r += 16) {
    const F32 before = load(s.total.m + r), added = load(part.m + r), m = max(added, before);
    store(a + r, exp(before - m));
    store(b + r, exp(added - m));
    store(s.total.m + r, m);
  }
  for (int r = 0; r < s.n_rows; ++r) {
    s.total.l[r] = s.total.l[r] * a[r] + part.l[r] * b[r];
    float* to = s.total.out + r * s.value_dim;
    const float* from = part.out + r * s.value_dim;
    for (int d = 0; d < s.value_dim; d += 16)
      store(to + d, load(to + d) * set1(a[r]) + load(from + d) * set1(b[r]));
  }
}

// The first of several is taken as it is.
inline void add_chunk(const Strip& s, const RowStates& part, bool first) {
  if (!first) return merge(s, part);
  std::memcpy(s.total.m, part.m, sizeof(float) * s.n_rows);
  std::memcpy(s.total.l, part.l, sizeof(float) * s.n_rows);
  std::memcpy(s.total.out, part.out, sizeof(float) * s.n_rows * s.value_dim);
}

inline void clear(const Strip& s, const RowStates& state) {
  for (int r = 0; r < s.padded_rows(); ++r) state.m[r] = kLowestScore, state.l[r] = 0;
  std::memset(state.out, 0, sizeof(float) * s.n_rows * s.value_dim);
}

// Partial results of a chunk: n_rows of m, of l, and of Dv floats. Lanes past the rows read what follows.
inline RowStates partial_at(const Strip& s, float* p) { return {p, p + s.n_rows, p + 2 * s.n_rows}; }

inline void store_partial(const Strip& s, float* p) {
  const RowStates to = partial_at(s, p);
  std::memcpy(to.m, s.chunk.m, sizeof(float) * s.n_rows);
  std::memcpy(to.l, s.chunk.l, sizeof(float) * s.n_rows);
  std::memcpy(to.out, s.chunk.out, sizeof(float) * s.n_rows * s.value_dim);
}

// 1 / l; no valid key: zeros; NaN stays NaN.
inline float inverse_sum(float l) { return l > 0 ? 1.0f / l : l; }

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
