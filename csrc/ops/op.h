// What every operation is to the program: a range of independent units, checked arguments, a cost.
//
// Each header of this folder describes one operation: its argument struct, check(), units() and cost().
// Nothing else may describe it: the NumPy functions and the program builder fill the same struct and call
// the same check, and kernels trust it.
#pragma once

#include "core/check.h"
#include "core/tensor.h"

namespace lanner {

// A kernel computes units begin <= u < end of one operation; units may run in any order on any thread.
using Kernel = void (*)(const void* args, const Step& step, const Worker& worker, int begin, int end);

template <class T>
void check_cols(const char* op, const char* name, const Rows<T>& rows, int64_t wanted) {
  check(rows.cols == wanted, op, ": ", name, " has ", rows.cols, " columns, wanted ", wanted);
}

template <class T>
void check_size(const char* op, const char* name, const Vector<T>& v, int64_t wanted, const char* why) {
  check(v.size == wanted, op, ": ", name, " has ", v.size, " elements, ", why, " ", wanted);
}

}  // namespace lanner
