// Packing a tensor into panels (layout in ops/packed.h), and reading a row of it back.
#pragma once

#include "cpu/pack_blocks.h"
#include "simd/vec.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// Rows of a panel in the source; rows past the end repeat the first and are zeroed afterwards.
struct SourceRows {
  const std::byte* row[kPanelRows];
  int n;

  SourceRows(const PackSource& s, int first)
      : n(s.n_rows - first < kPanelRows ? s.n_rows - first : kPanelRows) {
    const size_t bytes = row_bytes(s.format, static_cast<size_t>(s.k));
    for (int r = 0; r < kPanelRows; ++r)
      row[r] = s.data + static_cast<size_t>(source_row(s, first + (r < n ? r : 0))) * bytes;
  }
};

// All ones in the exponent: infinity or NaN.
template <Format format>
inline bool non_finite(const std::byte* p) {
  if constexpr (format == Format::F32) {
    uint32_t bits;
    std::memcpy(&bits, p, 4);
    return (bits & 0x7f800000u) == 0x7f800000u;
  } else {
    constexpr uint16_t exponent = format == Format::BF16 ? 0x7f80 : 0x7c00;
    uint16_t bits;
    std::memcpy(&bits, p, 2);
    return (bits & exponent) == exponent;
  }
}

// element[k][row] from row[row][k]; true if all are finite.
template <Format format>
inline bool pack_elements(const SourceRows& rows, int k, std::byte* out) {
  constexpr int size = static_cast<int>(info(format).bytes);
  bool bad = false;
  for (int i = 0; i < k; ++i)
    for (int r = 0; r < kPanelRows; ++r, out += size) {
      const std::byte* from = rows.row[r] + static_cast<size_t>(i) * size;
      bad |= non_finite<format>(from);
      if (r < rows.n)
        std::memcpy(out, from, size);
      else
        std::memset(out, 0, size);
    }
  return !bad;
}

// Bit 4g + j of `bits` to bit g of byte j: the fifth bits of eight groups of four values.
inline uint32_t spread_fifth_bits(uint32_t bits) {
  uint32_t out = 0;
  for (int j = 0; j < 4; ++j) {
    uint32_t x = bits >> j & 0x11111111u;  // bit 4g
    x = (x | x >> 3) & 0x03030303u;        // two neighbours side by side
    x = (x | x >> 6) & 0x000f000fu;
    x = (x | x >> 12) & 0xffu;
    out |= x << 8 * j;
  }
  return out;
}

// One block of 32 values of 16 rows. In the file a q4 block is its scale (and minimum), for q5 the 32 fifth
// bits, then 16 bytes with value j in the low and 16 + j in the high nibble: the nibbles move as they are.
template <Format format>
inline bool pack_code_block(const SourceRows& rows, int b, std::byte* out) {
  constexpr Record record = record_of(format);
  constexpr int block_bytes = static_cast<int>(info(format).bytes);
  constexpr bool minima = record.minima_at != 0, fifth = record.fifth_at != 0;
  constexpr int fifth_at = minima ? 4 : 2, codes_at = fifth_at + (fifth ? 4 : 0);
  bool bad = false;
  std::memset(out, 0, record.n_bytes);
  for (int r = 0; r < rows.n; ++r) {
    const std::byte* block = rows.row[r] + static_cast<size_t>(b) * block_bytes;
    bad |= non_finite<Format::F16>(block) || (minima && non_finite<Format::F16>(block + 2));
    for (int g = 0; g < 4; ++g) std::memcpy(out + 64 * g + 4 * r, block + codes_at + 4 * g, 4);
    if constexpr (fifth) {
      uint32_t bits;
      std::memcpy(&bits, block + fifth_at, 4);
      bits = spread_fifth_bits(bits);
      std::memcpy(out + record.fifth_at + 4 * r, &bits, 4);
    }
    std::memcpy(out + record.scales_at + 2 * r, block, 2);
    if constexpr (minima) std::memcpy(out + record.minima_at + 2 * r, block + 2, 2);
  }
  return !bad;
}

inline bool pack_wide_block(const SourceRows& rows, int b, std::byte* out) {
  constexpr Record record = record_of(Format::Q8_0);
  bool bad = false;
  std::memset(out, 0, record.n_bytes);
  for (int r = 0; r < rows.n; ++r) {
    const std::byte* block = rows.row[r] + static_cast<size_t>(b) * info(Format::Q8_0).bytes;
    bad |= non_finite<Format::F16>(block);
    for (int j = 0; j < kBlock / 2; ++j) std::memcpy(out + 32 * j + 2 * r, block + 2 + 2 * j, 2);
    std::memcpy(out + record.scales_at + 2 * r, block, 2);
  }
  return !bad;
}

template <bool (*pack_block)(const SourceRows&, int, std::byte*)>
inline bool pack_blocks(const SourceRows& rows, int k, int record_bytes, std::byte* out) {
  bool ok = true;
  for (int b = 0; b < k / kBlock; ++b, out += record_bytes) ok &= pack_block(rows, b, out);
  return ok;
}

// Rows past the end stay zero.
template <Format format, bool (*pack_row)(const std::byte* block, int r, std::byte* out)>
inline bool pack_rows(const SourceRows& rows, int k, std::byte* out) {
  constexpr Record record = record_of(format);
  bool ok = true;
  for (int b = 0; b < k / record.k; ++b, out += record.n_bytes) {
    std::memset(out, 0, record.n_bytes);
    for (int r = 0; r < rows.n; ++r)
      ok &= pack_row(rows.row[r] + static_cast<size_t>(b) * info(format).bytes, r, out);
  }
  return ok;
}

inline bool pack_panel(const PackSource& s, const SourceRows& rows, std::byte* out) {
  const int bytes = record_of(s.format).n_bytes;
  switch (s.format) {
    case Format::F32:
      return pack_elements<Format::F32>(rows, s.k, out);
    case Format::F16:
      return pack_elements<Format::F16>(rows, s.k, out);
    case Format::BF16:
      return pack_elements<Format::BF16>(rows, s.k, out);
    case Format::Q4_0:
      return pack_blocks<pack_code_block<Format::Q4_0>>(rows, s.k, bytes, out);
    case Format::Q4_1:
      return pack_blocks<pack_code_block<Format::Q4_1>>(rows, s.k, bytes, out);
    case Format::Q5_0:
      return pack_blocks<pack_code_block<Format::Q5_0>>(rows, s.k, bytes, out);
    case Format::Q5_1:
      return pack_blocks<pack_code_block<Format::Q5_1>>(rows, s.k, bytes, out);
    case Format::Q8_0:
      return pack_blocks<pack_wide_block>(rows, s.k, bytes, out);
#define LANNER_CASE(f, pack_row) \
  case Format::f:                \
    return pack_rows<Format::f, pack_row>(rows, s.k, out);
      LANNER_CASE(Q2_K, pack_super_row<Format::Q2_K>)
      LANNER_CASE(Q3_K, pack_super_row<Format::Q3_K>)
      LANNER_CASE(Q4_K, pack_super_row<Format::Q4_K>)
      LANNER_CASE(Q5_K, pack_super_row<Format::Q5_K>)
      LANNER_CASE(Q6_K, pack_super_row<Format::Q6_K>)
      LANNER_CASE(IQ4_XS, pack_super_row<Format::IQ4_XS>)
      LANNER_CASE(IQ4_NL, pack_iq4_nl_row)
      LANNER_CASE(MXFP4, pack_mxfp4_row)
#undef LANNER_CASE
  }
  return false;
}

bool pack(const PackSource& s, const Segment& segment, int begin, int end) {
  bool ok = true;
  for (int p = begin; p < end; ++p)
    ok &= pack_panel(s, SourceRows(s, p * kPanelRows),
                     segment.data + static_cast<size_t>(p) * segment.panel_bytes);
  return ok;
}

// --- reading a row back --------------------------------------------------------------------------------
template <Format format>
inline void unpack_elements(const std::byte* panel, int r, int k, float* out) {
  for (int i = 0; i < k; ++i, panel += record_of(format).n_bytes) {
    if constexpr (format == Format::F32) {
      std::memcpy(out + i, panel + 4 * r, 4);
    } else if constexpr (format == Format::BF16) {
      uint16_t half;
      std::memcpy(&half, panel + 2 * r, 2);
      const uint32_t bits = static_cast<uint32_t>(half) << 16;
      std::memcpy(out + i, &bits, 4);
    } else {
      out[i] = load_f16_1(panel + 2 * r);
    }
  }
}

// d * (code - offset) and d * code + m, each operation rounded, as the format defines its values.
template <Format format>
inline void unpack_codes(const std::byte* panel, int r, int k, float* out) {
  constexpr Record record = record_of(format);
  constexpr bool minima = record.minima_at != 0, fifth = record.fifth_at != 0;
  for (int b = 0; b < k / kBlock; ++b, panel += record.n_bytes) {
    const float scale = load_f16_1(panel + record.scales_at + 2 * r);
    const float minimum = minima ? load_f16_1(panel + record.minima_at + 2 * r) : 0.0f;
    for (int i = 0; i < kBlock; ++i) {
      const int g = i / 4, j = i % 4;
      int code = static_cast<int>(panel[64 * (g % 4) + 4 * r + j]) >> (g < 4 ? 0 : 4) & 15;
      if constexpr (fifth) code |= (static_cast<int>(panel[record.fifth_at + 4 * r + j]) >> g & 1) << 4;
      if constexpr (minima)
        out[b * kBlock + i] = scale * static_cast<float>(code) + minimum;
      else
        out[b * kBlock + i] = scale * static_cast<float>(code - (fifth ? 16 : 8));
    }
  }
}

inline void unpack_wide(const std::byte* panel, int r, int k, float* out) {
  constexpr Record record = record_of(Format::Q8_0);
  for (int b = 0; b < k / kBlock; ++b, panel += record.n_bytes) {
    const float scale = load_f16_1(panel + record.scales_at + 2 * r);
    for (int i = 0; i < kBlock; ++i) {
      const int code = static_cast<int8_t>(panel[32 * (i / 2) + 2 * r + i % 2]);
      out[b * kBlock + i] = scale * static_cast<float>(code);
    }
  }
}

template <Format format, void (*unpack_block)(const std::byte* panel, int r, float* out)>
inline void unpack_blocks(const std::byte* panel, int r, int k, float* out) {
  constexpr Record record = record_of(format);
  for (int i = 0; i < k; i += record.k, panel += record.n_bytes) unpack_block(panel, r, out + i);
}

void unpack_row(const PackedWeight& w, int row, float* out) {
  const Segment* s = w.segments.data();
  while (row >= s->first_row + s->n_rows) ++s;
  const int local = row - s->first_row, r = local % kPanelRows;
  const std::byte* panel = s->data + static_cast<size_t>(local / kPanelRows) * s->panel_bytes;
  switch (s->format) {
    case Format::F32:
      return unpack_elements<Format::F32>(panel, r, w.k, out);
    case Format::F16:
      return unpack_elements<Format::F16>(panel, r, w.k, out);
    case Format::BF16:
      return unpack_elements<Format::BF16>(panel, r, w.k, out);
    case Format::Q4_0:
      return unpack_codes<Format::Q4_0>(panel, r, w.k, out);
    case Format::Q4_1:
      return unpack_codes<Format::Q4_1>(panel, r, w.k, out);
    case Format::Q5_0:
      return unpack_codes<Format::Q5_0>(panel, r, w.k, out);
    case Format::Q5_1:
      return unpack_codes<Format::Q5_1>(panel, r, w.k, out);
    case Format::Q8_0:
      return unpack_wide(panel, r, w.k, out);
#define LANNER_CASE(f, unpack_block) \
  case Format::f:                    \
    return unpack_blocks<Format::f, unpack_block>(panel, r, w.k, out);
      LANNER_CASE(Q2_K, unpack_super_block<Format::Q2_K>)
      LANNER_CASE(Q3_K, unpack_super_block<Format::Q3_K>)
      LANNER_CASE(Q4_K, unpack_super_block<Format::Q4_K>)
      LANNER_CASE(Q5_K, unpack_super_block<Format::Q5_K>)
      LANNER_CASE(Q6_K, unpack_super_block<Format::Q6_K>)
      LANNER_CASE(IQ4_XS, unpack_super_block<Format::IQ4_XS>)
      LANNER_CASE(IQ4_NL, unpack_iq4_nl_block)
      LANNER_CASE(MXFP4, unpack_mxfp4_block)
#undef LANNER_CASE
  }
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
