// Views of the values that flow between operations, and the three sizes that change from step to step.
//
// Dimensions, one letter each wherever a comment gives a shape:
//   T tokens of the step    S sequences    R rows that want logits    H query heads    KH key/value heads
//   D head_dim    K input features of a matmul    N its output features    M rows of the MLP    V vocabulary
#pragma once

#include <cstddef>
#include <cstdint>

namespace lanner {

// A value has a row per token or a row per wanted output.
enum class RowKind : uint8_t { kTokens, kOutputs };

// What changes from one run of a program to the next.
struct Step {
  int32_t n_tokens = 0;                   // T
  int32_t n_seqs = 0;                     // S
  int32_t n_outputs = 0;                  // R
  int32_t max_pages = 0;                  // columns of block_tables
  int32_t max_seqs = 0;                   // rows of block_tables that a group of layers has
  int32_t n_groups = 1;                   // G
  const int32_t* token_ids = nullptr;     // (T)
  const int32_t* positions = nullptr;     // (T) position in its sequence, from 0
  const int32_t* token_seqs = nullptr;    // (T) sequence of each token
  const int32_t* seq_starts = nullptr;    // (S + 1) first token of each sequence in this step
  const int32_t* kv_lens = nullptr;       // (S) cached positions once this step is appended
  const int32_t* block_tables = nullptr;  // (G, max_seqs, max_pages) page of each 32, -1 if given back
  const int32_t* output_rows = nullptr;   // (R) token whose logits are wanted
  const float* sampling = nullptr;        // (R, 6) see ops/sample.h
  int32_t max_cross_pages = 0;            // columns of cross_tables
  const int32_t* cross_lens = nullptr;    // (S) positions of each sequence's source in the cross cache
  const int32_t* cross_tables = nullptr;  // (S, max_cross_pages) page of each 32 of them

  int32_t rows(RowKind kind) const { return kind == RowKind::kTokens ? n_tokens : n_outputs; }
};

// One thread inside a step.
struct Worker {
  int32_t id = 0;
  bool replicated[2] = {false, false};  // by RowKind: this step, every worker computes a copy of its own
  std::byte* scratch = nullptr;         // kScratchBytes, private
};

// Enough for an unpacked panel, an attention strip, and four numbers for each of 2^19 tokens, twice the
// largest vocabulary in use. Pages become resident when they are touched.
inline constexpr size_t kScratchBytes = size_t{8} << 20;

// A (rows, cols) value, rows contiguous. Replicable values have one small copy per further worker behind
// the shared one.
template <class T>
struct Rows {
  std::byte* base = nullptr;
  int32_t cols = 0;
  RowKind kind = RowKind::kTokens;
  size_t first_copy = 0;  // bytes from base to the copy of worker 1; 0 for a value that is never replicated
  size_t copy_bytes = 0;  // bytes from one copy to the next

  explicit operator bool() const { return base != nullptr; }
  T* row(const Worker& worker, int64_t r) const {
    std::byte* at = base;
    if (first_copy && worker.id && worker.replicated[static_cast<int>(kind)])
      at += first_copy + static_cast<size_t>(worker.id - 1) * copy_bytes;
    return reinterpret_cast<T*>(at) + r * cols;
  }
};

// A constant vector, such as the weight of a norm.
template <class T>
struct Vector {
  const T* data = nullptr;
  int64_t size = 0;
};

// A constant table, rows contiguous.
template <class T>
struct Matrix {
  const T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
};

// Bytes that must move and operations that must happen, however good the kernel.
struct Cost {
  double n_bytes = 0;
  double n_flops = 0;
};

}  // namespace lanner
