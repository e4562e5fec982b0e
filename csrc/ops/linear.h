// out = x @ w.T + bias, or out += that: every output sums over K in one fixed order, whatever the number of
// rows, and the bias is added to the sum.
//
//   float formats      sum = fma(w[n][k], x[k], sum) for k = 0, 1, ...
//   quantized formats  per block b of 32: sum = fma(dot(codes), scale_w * scale_x, sum), dot exact in int32;
//                      then sum = fma(minimum_w, scale_x * sum(codes_x), sum) where the codes are unsigned.
//                      In q4_k, q5_k and iq4_xs scale_w = d * scale and minimum_w = -dmin * minimum, both
//                      exact
//   q3_k, q6_k         per block b of 32, of halves h: sum = fma(i, d * scale_x, sum) with i = sum over h of
//                      scale[h] * (dot(codes[h]) - offset * sum(codes_x[h])), exact in int32 and as float32:
//                      |i| <= 2 * 128 * 16 * 32 * 127 < 2^24
//   q2_k               per block b of 32: sum = fma(i, d * scale_x, sum), i = sum of
//                      scale[h] * dot(codes[h]); then sum = fma(m, -dmin * scale_x, sum), m = sum of
//                      minimum[h] * sum(codes_x[h])
#pragma once

#include "ops/packed.h"
#include "ops/quantize_rows.h"

namespace lanner {

// The input of a matmul in the forms that the formats of its weight read.
struct LinearInput {
  Rows<float> x;        // (T or R, K), or absent
  Rows<uint8_t> int8;   // codes of x, or absent
  Rows<uint8_t> int16;  // codes of x, or absent
};

struct LinearArgs {
  const PackedWeight* weight;  // (N, K)
  LinearInput in;
  Rows<float> out;          // (T or R, N)
  bool add;                 // out += instead of out =
  int32_t unit_rows;        // output rows of a unit, a multiple of 16; 16 for no wish
  Vector<float> bias = {};  // (N), or absent
};

inline RowKind kind_of(const LinearInput& in) {
  return in.x ? in.x.kind : in.int8 ? in.int8.kind : in.int16.kind;
}

// A row of the input is `parts` rows of K, one after the other.
inline void check_input(const char* op, const LinearInput& in, const PackedWeight& w, const Rows<float>& out,
                        int parts = 1) {
  check_kind(op, "int8", in.int8, kind_of(in));
  check_kind(op, "int16", in.int16, kind_of(in));
  check_kind(op, "out", out, kind_of(in));
  for (const Segment& s : w.segments) {
    const InputKind kind = input_of(s.format);
    const bool given = kind == InputKind::kFloat  ? bool(in.x)
                       : kind == InputKind::kInt8 ? bool(in.int8)
                                                  : bool(in.int16);
    check(given, op, ": a weight of ", info(s.format).name, " reads ",
          kind == InputKind::kFloat  ? "x"
          : kind == InputKind::kInt8 ? "int8"
                                     : "int16",
          ", which was not given");
  }
  if (in.x) check_cols(op, "x", in.x, int64_t{parts} * w.k);
  if (in.int8) check_cols(op, "int8", in.int8, parts * int8_row_bytes(w.k));
  if (in.int16) check_cols(op, "int16", in.int16, parts * int16_row_bytes(w.k));
}

inline void check_unit_rows(const char* op, int32_t unit_rows) {
  check(unit_rows > 0 && unit_rows % kPanelRows == 0, op, ": unit_rows is ", unit_rows,
        ", wanted a positive multiple of ", kPanelRows);
}
// Units of unit_rows output rows need every segment but the last to end on a unit's border.
inline void check_unit_rows(const char* op, const PackedWeight& w, int32_t unit_rows) {
  check_unit_rows(op, unit_rows);
  for (size_t i = 0; i + 1 < w.segments.size() && unit_rows > kPanelRows; ++i)
    check(w.segments[i].n_rows % unit_rows == 0, op, ": a segment of ", w.segments[i].n_rows,
          " rows does not divide into units of ", unit_rows);
}

inline Cost cost_of_weight(const PackedWeight& w, double n_rows) {
  return {static_cast<double>(w.n_bytes) + 4.0 * n_rows * (w.k + w.n), 2.0 * n_rows * w.k * w.n};
}

inline void check(const LinearArgs& a) {
  check_input("linear", a.in, *a.weight, a.out);
  check_cols("linear", "out", a.out, a.weight->n);
  check_unit_rows("linear", *a.weight, a.unit_rows);
  check(!a.bias.data || a.bias.size == a.weight->n, "linear: bias has ", a.bias.size, " elements, wanted ",
        a.weight->n);
}
inline int units(const LinearArgs& a, const Step&) {
  return (a.weight->n_panels * kPanelRows + a.unit_rows - 1) / a.unit_rows;
}
inline Cost cost(const LinearArgs& a, const Step& step) {
  return cost_of_weight(*a.weight, step.rows(a.out.kind));
}

}  // namespace lanner
