// Operations that work on one row at a time: embed, gather_rows, rms_norm, quantize, rope_table.
#pragma once

#include <cmath>

#include "cpu/pack.h"
#include "cpu/rms_norm.h"
#include "ops/embed.h"
#include "ops/gather_rows.h"
#include "ops/quantize_rows.h"
#include "ops/rms_norm.h"
#include "ops/rope_table.h"
#include "simd/tail.h"

namespace lanner::LANNER_ISA_NS {
namespace {

void embed(const EmbedArgs& a, const Step& step, const Worker& worker, int begin, int end) {
  for (int t = begin; t < end; ++t) unpack_row(*a.weight, step.token_ids[t], a.out.row(worker, t));
}

void gather_rows(const GatherRowsArgs& a, const Step& step, const Worker& worker, int begin, int end) {
  for (int r = begin; r < end; ++r)
    std::memcpy(a.out.row(worker, r), a.x.row(worker, step.output_rows[r]), sizeof(float) * a.x.cols);
}

void rms_norm(const RmsNormArgs& a, const Step&, const Worker& worker, int begin, int end) {
  for (int t = begin; t < end; ++t)
    rms_norm_row(a.x.row(worker, t), a.weight.data, a.out.row(worker, t), a.x.cols, a.eps);
}

// One block of 32 values: largest magnitude, and the codes at `limit` of it.
struct BlockCodes {
  I32 lo, hi;
  float scale;
};

// A block of subnormal scale counts as zero. Infinity and NaN make the scale infinite and NaN, so that they
// reach the sum as what they are.
inline BlockCodes quantize_block(const float* x, float limit) {
  const F32 lo = load(x), hi = load(x + 16);
  const float largest = largest_magnitude(lo, hi), scale = largest / limit;
  if (scale < __FLT_MIN__) return {zero_i32(), zero_i32(), 0.0f};
  const F32 inverse = set1(limit / largest);
  return {round_i32(lo * inverse), round_i32(hi * inverse), scale};
}

// Columns 32 * first to 32 * last of one row (layout in ops/quantize_rows.h).
inline void quantize_blocks(const float* x, int k, uint8_t* int8, uint8_t* int16, int first, int last) {
  const int n_blocks = k / kBlock;
  for (int b = first; b < last; ++b) {
    if (int8) {
      const BlockCodes q = quantize_block(x + b * kBlock, 127.0f);
      store_i8(reinterpret_cast<int8_t*>(int8) + b * kBlock, q.lo);
      store_i8(reinterpret_cast<int8_t*>(int8) + b * kBlock + 16, q.hi);
      const int32_t lo = hsum(q.lo), hi = hsum(q.hi);
      const float scaled_sum = q.scale * static_cast<float>(hsum(q.lo + q.hi));
      const int16_t sums[2] = {static_cast<int16_t>(lo), static_cast<int16_t>(hi)};
      std::memcpy(int8 + k + 4 * b, &q.scale, 4);
      std::memcpy(int8 + k + 4 * (n_blocks + b), &scaled_sum, 4);
      std::memcpy(int8 + k + 4 * (2 * n_blocks + b), sums, 4);
    }
    if (int16) {
      const BlockCodes q = quantize_block(x + b * kBlock, 32767.0f);
      int16_t* codes = reinterpret_cast<int16_t*>(int16) + b * kBlock;
      store_i16(codes, q.lo), store_i16(codes + 16, q.hi);
      std::memcpy(int16 + 2 * k + 4 * b, &q.scale, 4);
    }
  }
}

// Blocks first to last - 1 of each part of a row.
inline void quantize_row(const QuantizeRowsArgs& a, const Worker& worker, int t, int first, int last) {
  const int k = a.x.cols / a.parts;
  for (int part = 0; part < a.parts; ++part)
    quantize_blocks(a.x.row(worker, t) + part * k, k,
                    a.int8 ? a.int8.row(worker, t) + part * int8_row_bytes(k) : nullptr,
                    a.int16 ? a.int16.row(worker, t) + part * int16_row_bytes(k) : nullptr, first, last);
}

void quantize_rows(const QuantizeRowsArgs& a, const Step&, const Worker& worker, int begin, int end) {
  for (int t = begin; t < end; ++t) quantize_row(a, worker, t, 0, a.x.cols / a.parts / kBlock);
}

void quantize_cols(const QuantizeColsArgs& a, const Step& step, const Worker& worker, int begin, int end) {
  const int n = step.rows(a.x.kind);
  for (int t = 0; t < n; ++t) quantize_row(a, worker, t, begin, end);
}

void rope_table(const RopeTableArgs& a, const Step& step, const Worker& worker, int begin, int end) {
  const int half = static_cast<int>(a.inv_freq.size);
  for (int t = begin; t < end; ++t) {
    float* out = a.out.row(worker, t);
    for (int i = 0; i < half; ++i) {
      const double angle = step.positions[t] * a.inv_freq.data[i];
      out[i] = static_cast<float>(a.factor * ::cos(angle));
      out[half + i] = static_cast<float>(a.factor * ::sin(angle));
    }
  }
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
