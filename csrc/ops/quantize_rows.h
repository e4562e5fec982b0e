// Codes of the activations for a quantized matmul, per block of 32 values with a float32 scale:
//   code = round(x * (limit / max|x|)), scale = max|x| / limit;  limit 127 for int8, 32767 for int16
//
// A row of int8 codes:  K x int8, K/32 x float32 scale, K/32 x float32 scale * sum(codes), K/32 x 2 x int16:
// sums of 16 codes A row of int16 codes: K x int16, K/32 x float32 scale
// With `parts`, a row of x is so many rows of K, and their codes follow each other.
#pragma once

#include "ops/packed.h"

namespace lanner {

struct QuantizeRowsArgs {
  Rows<float> x;        // (T or R, parts * K), K % 32 == 0
  Rows<uint8_t> int8;   // (T or R, parts * 44 * K/32), or absent
  Rows<uint8_t> int16;  // (T or R, parts * 68 * K/32), or absent
  int32_t parts = 1;
};

constexpr int64_t int8_row_bytes(int64_t k) { return k / kBlock * 44; }
constexpr int64_t int16_row_bytes(int64_t k) { return k / kBlock * 68; }

inline void check_quantize(const char* op, const QuantizeRowsArgs& a) {
  check(a.parts >= 1, op, ": parts is ", a.parts, ", wanted a positive number");
  check(a.x.cols % (int64_t{a.parts} * kBlock) == 0, op, ": x has ", a.x.cols,
        " columns, wanted a multiple of ", int64_t{a.parts} * kBlock);
  check(a.int8 || a.int16, op, ": wants int8 or int16 codes, neither was given");
  check_kind(op, "int8", a.int8, a.x.kind);
  check_kind(op, "int16", a.int16, a.x.kind);
  if (a.int8) check_cols(op, "int8", a.int8, int8_row_bytes(a.x.cols));
  if (a.int16) check_cols(op, "int16", a.int16, int16_row_bytes(a.x.cols));
}
inline Cost cost_quantize(const QuantizeRowsArgs& a, double n_rows) {
  return {n_rows * (4.0 * a.x.cols + (a.int8 ? a.int8.cols : 0) + (a.int16 ? a.int16.cols : 0)), 0};
}

inline void check(const QuantizeRowsArgs& a) { check_quantize("quantize_rows", a); }
inline int units(const QuantizeRowsArgs& a, const Step& step) { return step.rows(a.x.kind); }
inline Cost cost(const QuantizeRowsArgs& a, const Step& step) { return cost_quantize(a, units(a, step)); }

// The same codes, cut by columns: a unit is one block of 32 in every row, and in every part of it. It follows
// the operation that makes those columns in the same thread, where quantize_rows would need a barrier.
struct QuantizeColsArgs : QuantizeRowsArgs {};

inline void check(const QuantizeColsArgs& a) { check_quantize("quantize_cols", a); }
inline int units(const QuantizeColsArgs& a, const Step&) { return a.x.cols / a.parts / kBlock; }
inline Cost cost(const QuantizeColsArgs& a, const Step& step) {
  return cost_quantize(a, step.rows(a.x.kind));
}

}  // namespace lanner
