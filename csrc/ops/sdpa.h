// out[b][h][i] = sum_j softmax_j(bias + cap(scale * q[b][h][i] . k[b][g][j])) v[b][g][j] on whole arrays.
//
// Query i stands at position i + kv_len - q_len, g = h / (heads / kv_heads). The tiles, the chunks and the
// order of their merging are those of ops/attention.h, so the bits of a row depend on its own keys alone.
//
// Rows that share a KV head are numbered query by query, its heads side by side: row = i * group + h % group.
#pragma once

#include "ops/attention.h"

namespace lanner {

// Here a tile of K is transposed and one of V copied for each strip, and that costs as much as 5 to 10 rows
// of it: four strips of the paged cache share them, as long as that leaves enough strips to deal out and q
// and O stay in a level-2 cache of 512 KB.
inline constexpr int kLongStripRows = 4 * kStripRows;
inline constexpr int kShortStripRows = 2 * kStripRows;
inline constexpr int64_t kEnoughStrips = 32;

// (batch, head, row, column) in bytes; a stride of 0 broadcasts.
struct ArrayView {
  std::byte* data = nullptr;
  int64_t batch = 0, head = 0, row = 0, col = 0;

  std::byte* at(int64_t b, int64_t h, int64_t r) const { return data + b * batch + h * head + r * row; }
};

enum class MaskKind : uint8_t { kNone, kMayAttend, kAdditive };

struct SdpaArgs {
  ArrayView q, k, v,
      out;         // (B, H, Tq, D), (B, KH, Tk, D), (B, KH, Tk, Dv), (B, H, Tq, Dv); columns contiguous
  ArrayView mask;  // (B, H, Tq, Tk): one byte or one float32 each
  float* weights = nullptr;  // (B, H, Tq, Tk) contiguous, or not wanted
  Format format = Format::F32;
  MaskKind mask_kind = MaskKind::kNone;
  int64_t batch = 0, heads = 0, kv_heads = 0, q_len = 0, kv_len = 0, head_dim = 0, value_dim = 0;
  float scale = 1;
  float softcap = 0;   // 0: none
  int64_t window = 0;  // 0: none
  bool causal = false;

  int64_t group() const { return heads / kv_heads; }
  int64_t group_rows() const { return q_len * group(); }
  int strip_rows() const {
    const bool is_long = group_rows() * batch * kv_heads >= kEnoughStrips * kLongStripRows;
    return is_long && head_dim <= 128 && value_dim <= 128 ? kLongStripRows : kShortStripRows;
  }
  int64_t n_strips() const { return (group_rows() + strip_rows() - 1) / strip_rows(); }
  int64_t n_chunks() const { return (kv_len + kChunkPositions - 1) / kChunkPositions; }
  int64_t n_units() const { return n_strips() * batch * kv_heads; }
};

// One strip of rows of one batch entry and KV head. Strips at the end of the queries come first: under a
// causal limit they are the longest.
struct SdpaUnit {
  int64_t batch, kv_head, first_row;
  int n_rows;

  SdpaUnit(const SdpaArgs& a, int64_t unit) {
    const int64_t n_pairs = a.batch * a.kv_heads, pair = unit % n_pairs;
    batch = pair / a.kv_heads, kv_head = pair % a.kv_heads;
    first_row = (a.n_strips() - 1 - unit / n_pairs) * a.strip_rows();
    const int64_t rest = a.group_rows() - first_row;
    n_rows = rest < a.strip_rows() ? static_cast<int>(rest) : a.strip_rows();
  }
};

// Floats of the partial result of a strip and chunk: m, l and the padded O of each row.
inline size_t partial_floats(const SdpaArgs& a) {
  const size_t rows = static_cast<size_t>(a.group_rows() < a.strip_rows() ? a.group_rows() : a.strip_rows());
  return rows * (2 + static_cast<size_t>(a.value_dim + kLanes - 1) / kLanes * kLanes);
}

// The kernels of one instruction set. scratch: kScratchBytes of the calling thread.
struct SdpaKernels {
  // All chunks of a unit; or one, into partial (partial_floats); or merges the n_chunks partials of a unit.
  void (*whole)(const SdpaArgs& a, int64_t unit, std::byte* scratch);
  void (*chunk)(const SdpaArgs& a, int64_t unit, int64_t chunk, float* partial, std::byte* scratch);
  void (*merge)(const SdpaArgs& a, int64_t unit, float* partials, std::byte* scratch);
};

// Shapes agree already; what is left are sizes and parameters.
inline void check(const SdpaArgs& a) {
  check(a.kv_heads > 0 ? a.heads % a.kv_heads == 0 : a.heads == 0, "sdpa: q has ", a.heads,
        " heads, wanted a multiple of the ", a.kv_heads, " heads of k");
  check(a.head_dim >= 1 && a.head_dim <= kMaxHeadDim, "sdpa: head_dim of q is ", a.head_dim, ", wanted 1 to ",
        kMaxHeadDim);
  check(a.value_dim >= 1 && a.value_dim <= kMaxHeadDim, "sdpa: head_dim of v is ", a.value_dim,
        ", wanted 1 to ", kMaxHeadDim);
  constexpr int64_t kMostPositions = int64_t{1} << 30;  // positions are int32 inside a strip
  check(a.q_len <= kMostPositions && a.kv_len <= kMostPositions, "sdpa: q and k have ", a.q_len, " and ",
        a.kv_len, " positions, wanted at most ", kMostPositions);
}

}  // namespace lanner
