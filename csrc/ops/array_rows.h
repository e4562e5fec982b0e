// Operations on the rows of whole arrays: what their kernels are given. Shapes are checked in lanner.ops.
#pragma once

#include <cstdint>

#include "ops/activate.h"
#include "ops/adjust.h"

namespace lanner {

// A softmax adds up a row in chunks of this many elements, counted from the start of the row, each relative
// to its own maximum, and merges the chunks in order: whoever computes a chunk, the bits are the same. 16 KB
// of input stay in L1 between the search for the maximum and the exponentials.
inline constexpr int64_t kSoftmaxChunk = 4096;

struct ChunkSum {
  float max;   // of the chunk, at least the lowest finite number
  double sum;  // of exp(x - max)
};

struct SoftmaxRow {
  const float* x;  // (n)
  float* kept;     // (n) room for exp(x - max of the chunk), or null: then they are computed twice
  float* out;      // (n)
  ChunkSum* sums;  // one per chunk
  int64_t n;
  bool logarithm;  // log_softmax
  bool stream;     // write past the caches
};

struct NormRows {
  const float* x;       // (rows, n)
  const float* weight;  // (n) or null
  const float* bias;    // (n) or null
  float* out;           // (rows, n)
  int64_t n;
  float eps;
};

struct RopeRows {
  const float* x;         // (rows, n)
  const float* table;     // (positions, n_rotated): cosines of each pair, then sines
  const int64_t* angles;  // (rows) row of the table
  float* out;             // (rows, n)
  int64_t n;
  int64_t n_rotated;  // leading columns that turn; the others are copied
  bool interleaved;   // pairs (2i, 2i + 1) instead of (i, i + n_rotated / 2)
};

// Kernels work on rows, chunks or elements begin <= i < end.
struct RowKernels {
  void (*sum_chunks)(const SoftmaxRow& row, int64_t begin, int64_t end);
  ChunkSum (*merge_chunks)(const SoftmaxRow& row);
  void (*write_chunks)(const SoftmaxRow& row, const ChunkSum& merged, int64_t begin, int64_t end);
  float (*log_sum)(const SoftmaxRow& row);
  void (*rms_norm_rows)(const NormRows& a, int64_t begin, int64_t end);
  void (*layer_norm_rows)(const NormRows& a, int64_t begin, int64_t end);
  void (*rope_rows)(const RopeRows& a, int64_t begin, int64_t end);
  // out[i] = f(gate[i]), times up[i] where up is not null.
  void (*activate)(Activation f, const float* gate, const float* up, float* out, int64_t n);
  // The k largest of x in order; keys has room for top_k_room(n, k).
  void (*top_k)(const float* x, int64_t n, int64_t k, uint64_t* keys, float* values, int64_t* ids);
  void (*adjust)(const AdjustRow& row);
};

// Candidates of a top_k: twice k, so that each selection of k is paid for by as many new ones, and no fewer
// than a few vectors.
inline int64_t top_k_room(int64_t n, int64_t k) {
  const int64_t room = 2 * k + 256;
  return room < n ? room : n;
}

}  // namespace lanner
