// Kernels that make each element of a value of the same elements of others, 16 bytes at a time.
#pragma once

#include "cuda/rows.h"

namespace lanner::cuda {

// Registers and work are few, so 256 threads of any number of blocks fill a multiprocessor.
inline constexpr int kElementThreads = 256;

// First of the N elements of this thread of a value (rows, cols), or -1.
template <int N>
LANNER_DEVICE int64_t first_element(const RowCount& rows, int32_t cols) {
  const int64_t i = (int64_t{block_x()} * kElementThreads + thread_index()) * N;
  return i < int64_t{*rows.n} * cols ? i : -1;
}

inline LaunchShape shape_of_elements(int n_rows, int32_t cols, int per_thread) {
  const int64_t n = int64_t{n_rows} * cols / per_thread;
  return {{static_cast<int>((n + kElementThreads - 1) / kElementThreads)}, kElementThreads, 0, true};
}

// cols of 16 bytes: rows then begin aligned, and no thread has elements of two rows.
inline void check_element_cols(const char* op, int32_t cols, ValueType type = ValueType::kBf16) {
  check_multiple(op, "cols", cols, 16 / element_bytes(type));
}
inline void check_value_type(const char* op, ValueType t) {
  check(t == ValueType::kFloat32 || t == ValueType::kBf16, op, ": type is ", static_cast<int>(t),
        ", wanted 0 (float32) or 1 (bf16)");
}
inline void check_finite(const char* op, const char* name, float x) {
  check(x >= kLowest && x <= -kLowest, op, ": ", name, " is ", x, ", wanted a finite number");
}

}  // namespace lanner::cuda
