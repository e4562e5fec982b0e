// What every operation is to the program: a range of independent units, checked arguments, a cost.
//
// Each header of this folder describes one operation: its argument struct, check(), units() and cost().
// Nothing else may describe it: the NumPy functions and the program builder fill the same struct and call
// the same check, and kernels trust it.
#pragma once

#include <limits>
#include <utility>

#include "core/check.h"
#include "core/tensor.h"

namespace lanner {

// A kernel computes units begin <= u < end of one operation; units may run in any order on any thread.
using Kernel = void (*)(const void* args, const Step& step, const Worker& worker, int begin, int end);

template <class T>
void check_cols(const char* op, const char* name, const Rows<T>& rows, int64_t wanted) {
  check(rows.cols == wanted, op, ": ", name, " has ", rows.cols, " columns, wanted ", wanted);
}

inline void check_finite(const char* op, const char* name, float x) {
  constexpr float most = std::numeric_limits<float>::max();
  check(x >= -most && x <= most, op, ": ", name, " is ", x, ", wanted a finite number");
}

constexpr const char* kind_name(RowKind kind) { return kind == RowKind::kTokens ? "tokens" : "outputs"; }

// An output with a row per wanted logit has no room for a row per token.
template <class T>
void check_kind(const char* op, const char* name, const Rows<T>& rows, RowKind wanted) {
  check(!rows || rows.kind == wanted, op, ": ", name, " has rows of ", kind_name(rows.kind), ", wanted ",
        kind_name(wanted));
}

}  // namespace lanner
