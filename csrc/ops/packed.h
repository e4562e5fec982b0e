// The one packed layout of all weights, read by the kernels for one token and for many.
//
// A weight (N, K) is a list of segments, each a range of output rows with a format of its own (a fused qkv
// may mix types). A segment is cut into panels of 16 rows, the last one padded with zeros. A panel is a
// sequence of records along K:
//
//   f32, f16, bf16   a record per k: 16 values
//   q4_*, q5_*       a record per 32 k: codes, scales, minima
//     codes  4 x 64 bytes; byte 4*row + j of vector g is w[row][4g + j] (low nibble) and w[row][16 + 4g + j]
//     fifth  64 bytes (q5 only); bit g of byte 4*row + j is bit 4 of w[row][4g + j], g = 0..7
//     scales 16 x f16, and minima 16 x f16 for q4_1 and q5_1
//   q8_0             a record per 32 k: 16 x 32 bytes; bytes 2*row, 2*row + 1 of vector j are w[row][2j],
//                    [2j+1], kept signed because vpmaddwd is; then scales 16 x f16
//   mxfp4            as q4, the scales 16 x E8M0
//   iq4_nl           a record per 32 k: 8 x 32 bytes; bytes 2*row, 2*row + 1 of vector j are w[row][2j],
//   [2j+1]
//                    (low nibbles) and w[row][16 + 2j], [16 + 2j+1]; then scales 16 x f16
//   K-quants, iq4_xs a record per 256 k: scales 16 x f16, for q2_k, q4_k and q5_k 16 x f16 with minus the
//   scale
//                    of the minima, then eight sub-blocks of 32 k:
//     codes  as q4 or iq4_nl, absent for q2_k and q3_k
//     pairs  2 x 64 bytes (q2_k, q3_k, q6_k); bits 2g, 2g+1 of byte 4*row + j of vector h are two bits of
//            w[row][16h + 4g + j]: the lowest of q2_k and q3_k, the highest of q6_k
//     fifth  64 bytes (q5_k; the third bit of q3_k), as above
//     scales 16 x u8, then minima 16 x u8 (q4_k, q5_k); 16 x i8 (iq4_xs); a pair for the two halves of the 32
//     k,
//            byte 2*row + h, i8 (q3_k, q6_k) or the nibbles of scale and minimum (q2_k)
//
// Codes stay unsigned, as vpmaddubsw wants them: w = scale * code + minimum, where formats without minima
// have minus their offset (8, 16, 4, 32, 12) times the scale. Codebooks whose values need 8 bits expand as
// they are read and meet int16 activations, as q8_0 does.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/dtype.h"
#include "core/memory.h"
#include "ops/op.h"

namespace lanner {

inline constexpr int kPanelRows = 16;
inline constexpr int kBlock = 32;            // values along K that share a scale
inline constexpr int kMostInputs = 1 << 29;  // of a quantized weight

struct Record {
  int k;         // values along K
  int n_bytes;   // of the record, all 16 rows
  int pairs_at;  // byte offsets inside the record, or inside a sub-block of a record of 256; 0 where the
                 // format
  int fifth_at;  // has no such field (or it is the first)
  int scales_at;
  int minima_at;
  int sub_at = 0;     // of the first sub-block
  int sub_bytes = 0;  // of a sub-block
};

constexpr Record super_record(int header, int pairs_at, int fifth_at, int scales_at, int minima_at,
                              int sub_bytes) {
  return {256, header + 8 * sub_bytes, pairs_at, fifth_at, scales_at, minima_at, header, sub_bytes};
}

constexpr Record record_of(Format format) {
  switch (format) {
    case Format::F32:
      return {1, 64, 0, 0, 0, 0};
    case Format::F16:
    case Format::BF16:
      return {1, 32, 0, 0, 0, 0};
    case Format::Q4_0:
    case Format::IQ4_NL:
      return {32, 288, 0, 0, 256, 0};
    case Format::Q4_1:
      return {32, 320, 0, 0, 256, 288};
    case Format::Q5_0:
      return {32, 352, 0, 256, 320, 0};
    case Format::Q5_1:
      return {32, 384, 0, 256, 320, 352};
    case Format::Q8_0:
      return {32, 544, 0, 0, 512, 0};
    case Format::MXFP4:
      return {32, 272, 0, 0, 256, 0};
    case Format::Q2_K:
      return super_record(64, 0, 0, 128, 0, 160);
    case Format::Q3_K:
      return super_record(32, 0, 128, 192, 0, 224);
    case Format::Q4_K:
      return super_record(64, 0, 0, 256, 272, 288);
    case Format::Q5_K:
      return super_record(64, 0, 256, 320, 336, 352);
    case Format::Q6_K:
      return super_record(32, 256, 0, 384, 0, 416);
    case Format::IQ4_XS:
      return super_record(32, 0, 0, 256, 0, 272);
  }
  return {};
}

// Planes that a format has (the layout is above).
constexpr bool is_super(Format f) { return record_of(f).k == 256; }
constexpr bool has_nibbles(Format f) { return f != Format::Q2_K && f != Format::Q3_K; }
constexpr bool has_pairs(Format f) { return f == Format::Q2_K || f == Format::Q3_K || f == Format::Q6_K; }
constexpr bool has_fifth(Format f) { return record_of(f).fifth_at != 0; }

// What a matmul reads of its input: float32, or codes per 32 values (ops/quantize_rows.h).
enum class InputKind : uint8_t { kFloat, kInt8, kInt16 };

constexpr InputKind input_of(Format format) {
  switch (format) {
    case Format::F32:
    case Format::F16:
    case Format::BF16:
      return InputKind::kFloat;
    case Format::Q8_0:
    case Format::IQ4_NL:
    case Format::IQ4_XS:
      return InputKind::kInt16;
    default:
      return InputKind::kInt8;
  }
}

struct Segment {
  Format format;
  int32_t n_rows;
  int32_t first_row;    // output row of the weight
  int32_t first_panel;  // counted over all segments
  int32_t n_panels;
  size_t panel_bytes;
  std::byte* data;
};

struct PackedWeight {
  int32_t n = 0;
  int32_t k = 0;
  int32_t n_panels = 0;
  size_t n_bytes = 0;
  std::vector<Segment> segments;
  Memory memory;                      // its own, or
  std::shared_ptr<Arena> arena;       // part of this, or
  std::shared_ptr<const void> owner;  // of what is not ours
};

// One panel, as a kernel wants it.
struct Panel {
  Format format;
  const std::byte* data;
  int32_t first_row;
  int32_t n_rows;  // 16, fewer at the end of a segment
};

// `segment` is one from which on the panel is found: with hundreds of them, the search would take long.
inline Panel panel_of(const PackedWeight& w, int panel, int segment = 0) {
  const Segment* s = w.segments.data() + segment;
  while (panel >= s->first_panel + s->n_panels) ++s;
  const int local = panel - s->first_panel;
  const int left = s->n_rows - local * kPanelRows;
  return {s->format, s->data + static_cast<size_t>(local) * s->panel_bytes, s->first_row + local * kPanelRows,
          left < kPanelRows ? left : kPanelRows};
}

// A source tensor to be packed: rows as the file stores them, in the order that row_of gives.
struct PackSource {
  Format format;
  const std::byte* data;
  int32_t n_rows;
  int32_t k;
  // Rows of a rotary pair (2i, 2i+1) stand next to each other in some files; 0, or the head_dim whose rows
  // move to half-split order (i, i + head_dim/2).
  int32_t interleaved_head_dim;
};

// Checks the sources and takes the memory of their fused weight, from the arena as long as that has room; its
// panels are still to be packed. `given` has them already, if of their size; it lives as long as its owner.
PackedWeight lay_out(const std::vector<PackSource>& sources, std::shared_ptr<Arena> arena = nullptr,
                     std::span<std::byte> given = {}, std::shared_ptr<const void> owner = nullptr);

// Row of the source that becomes row r of the packed weight.
inline int32_t source_row(const PackSource& s, int32_t r) {
  if (s.interleaved_head_dim == 0) return r;
  const int32_t half = s.interleaved_head_dim / 2, in_head = r % s.interleaved_head_dim;
  return r - in_head + (in_head < half ? 2 * in_head : 2 * (in_head - half) + 1);
}

}  // namespace lanner
