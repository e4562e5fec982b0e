// What all operations share: the arrays of a step, bounds of its sizes, weights, and how arguments are named.
//
// An operation has an argument struct with device addresses, whose each_field() names the members for the
// binding, a check(), and a launcher. The counts of a step are read by kernels in device memory, and rows
// beyond them are left alone; the host knows bounds of them, by which it makes grids. So a graph of launches
// that was recorded for a bucket serves every step that fits in it.
#pragma once

#include "core/check.h"
#include "cuda/runtime.h"

namespace lanner::cuda {

using lanner::check;  // beside the check() of each operation

inline constexpr int kPagePositions = 32;  // of a KV page, as on the CPU: one scheduler serves both

struct StepCounts {
  int32_t n_tokens, n_seqs, n_outputs;
};

// Device addresses that never change in the life of a program.
struct StepArrays {
  const StepCounts* counts;
  const int32_t* token_ids;     // (T)
  const int32_t* positions;     // (T) position in its sequence, from 0
  const int32_t* token_seqs;    // (T) sequence of each token
  const int32_t* seq_starts;    // (S + 1) first token of each sequence in this step
  const int32_t* kv_lens;       // (S) cached positions once this step is appended
  const int32_t* output_rows;   // (R) token whose logits are wanted
  const int32_t* block_tables;  // (S, max_pages) page of each 32 positions, of one group of layers
  const float* sampling;        // (R, 6) temperature, top_k, top_p, min_p, typical_p, uniform in [0, 1)
  int32_t max_pages;            // from the pages of a sequence to those of the next

  template <class F>
  void each_field(F&& field) {
    field("counts", counts), field("token_ids", token_ids), field("positions", positions);
    field("token_seqs", token_seqs), field("seq_starts", seq_starts), field("kv_lens", kv_lens);
    field("output_rows", output_rows), field("block_tables", block_tables), field("sampling", sampling);
    field("max_pages", max_pages);
  }
};

// At least what the counts of every step are that a launch serves.
struct Bounds {
  int32_t n_tokens = 1, n_seqs = 1, n_outputs = 1;
  int32_t n_keys = 0;  // of the longest sequence
  Stream stream = nullptr;
};

enum class RowKind : int32_t { kTokens, kOutputs };

// How many rows a value has: the count in device memory, and which bound it keeps.
struct RowCount {
  const int32_t* n;
  RowKind kind;
  int32_t bound(const Bounds& b) const { return kind == RowKind::kTokens ? b.n_tokens : b.n_outputs; }
};

enum class WeightType : int32_t { kBf16, kInt8, kInt4 };

// A packed matrix (n, k); weights.h says in which order. `scales` is null for bf16.
struct Weight {
  WeightType type;
  int32_t n, k;
  const void* codes;
  const void* scales;
};

inline void check_present(const char* op, const char* name, const void* p) {
  check(p != nullptr, op, ": ", name, " is missing");
}
inline void check_multiple(const char* op, const char* name, int64_t given, int64_t of) {
  check(given > 0 && given % of == 0, op, ": ", name, " is ", given, ", wanted a positive multiple of ", of);
}
LANNER_BOTH constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

}  // namespace lanner::cuda
