// Packing and unpacking of one block of 32 values, or 256, for the formats whose codes are spread over planes
// (layout in ops/packed.h). rows are the 16 rows of a panel, r one of them.
#pragma once

#include "cpu/blocks.h"
#include "ops/packed.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// Four codes at a time, a code to a byte: the groups of the layout.
template <Format format>
inline void place_codes(const uint8_t (&codes)[kBlock], int r, std::byte* out) {
  constexpr Record record = record_of(format);
  constexpr int low_bits_of_code = has_nibbles(format) ? 4 : 2;
  uint32_t group[8];
  std::memcpy(group, codes, sizeof group);
  auto place = [&](int at, uint32_t word) { std::memcpy(out + at + 4 * r, &word, 4); };
  if constexpr (has_nibbles(format))
    for (int g = 0; g < 4; ++g) place(64 * g, (group[g] & 0x0f0f0f0fu) | (group[g + 4] & 0x0f0f0f0fu) << 4);
  if constexpr (has_pairs(format)) {
    constexpr int shift = has_nibbles(format) ? 4 : 0;
    for (int h = 0; h < 2; ++h) {
      uint32_t word = 0;
      for (int g = 0; g < 4; ++g) word |= (group[4 * h + g] >> shift & 0x03030303u) << 2 * g;
      place(record.pairs_at + 64 * h, word);
    }
  }
  if constexpr (has_fifth(format)) {
    uint32_t word = 0;
    for (int g = 0; g < 8; ++g) word |= (group[g] >> low_bits_of_code & 0x01010101u) << g;
    place(record.fifth_at, word);
  }
}

template <Format format>
inline int code_at(const std::byte* block, int r, int i) {
  constexpr Record record = record_of(format);
  const int g = i / 4, j = i % 4;
  auto byte = [&](int at) { return static_cast<int>(block[at + 4 * r + j]); };
  int code = 0;
  if constexpr (has_nibbles(format)) code = byte(64 * (g % 4)) >> (g < 4 ? 0 : 4) & 15;
  if constexpr (has_pairs(format))
    code |= (byte(record.pairs_at + 64 * (g / 4)) >> 2 * (g % 4) & 3) << (has_nibbles(format) ? 4 : 0);
  if constexpr (has_fifth(format)) code |= (byte(record.fifth_at) >> g & 1) << (has_nibbles(format) ? 4 : 2);
  return code;
}

// Scales and minima of sub-block b.
template <Format format>
inline void place_scales(const SubScales& s, int b, int r, std::byte* sub) {
  constexpr Record record = record_of(format);
  auto place = [&](int at, int value) { sub[at] = static_cast<std::byte>(value); };
  if constexpr (has_pairs(format)) {
    for (int h = 0; h < 2; ++h)
      place(record.scales_at + 2 * r + h, s.scales[2 * b + h] | s.minima[2 * b + h] << 4);
  } else {
    place(record.scales_at + r, s.scales[b]);
    if constexpr (minimum_at(format) >= 0) place(record.minima_at + r, s.minima[b]);
  }
}

inline bool finite_half(uint16_t bits) { return (bits & 0x7c00) != 0x7c00; }

// The f16 of a block to lane r of an array, its sign flipped where `flip` is 0x8000; false if not finite.
inline bool move_half(const std::byte* from, int r, std::byte* to, uint16_t flip = 0) {
  uint16_t bits;
  std::memcpy(&bits, from, 2);
  bits ^= flip;
  std::memcpy(to + 2 * r, &bits, 2);
  return finite_half(bits);
}

template <Format format>
inline bool pack_super_row(const std::byte* block, int r, std::byte* out) {
  constexpr Record record = record_of(format);
  bool ok = move_half(block + scale_at(format), r, out);
  if constexpr (minimum_at(format) >= 0) ok &= move_half(block + minimum_at(format), r, out + 32, 0x8000);
  const SubScales scales = sub_scales<format>(block);
  for (int b = 0; b < 8; ++b) {
    std::byte* sub = out + record.sub_at + b * record.sub_bytes;
    place_scales<format>(scales, b, r, sub);
    if constexpr (format == Format::IQ4_XS) {
      for (int j = 0; j < 8; ++j) std::memcpy(sub + 32 * j + 2 * r, block + 8 + 16 * b + 2 * j, 2);
    } else {
      uint8_t codes[kBlock];
      for (int h = 0; h < 2; ++h)
        store_u8(codes + 16 * h, codes_16<format>(block, 2 * b + h) + set1_i32(code_offset(format)));
      place_codes<format>(codes, r, sub);
    }
  }
  return ok;
}

inline bool pack_iq4_nl_row(const std::byte* block, int r, std::byte* out) {
  for (int j = 0; j < 8; ++j) std::memcpy(out + 32 * j + 2 * r, block + 2 + 2 * j, 2);
  return move_half(block, r, out + record_of(Format::IQ4_NL).scales_at);
}

// Twelve times a scale of 2^(253 - 128) is beyond float32.
inline bool pack_mxfp4_row(const std::byte* block, int r, std::byte* out) {
  for (int g = 0; g < 4; ++g) std::memcpy(out + 64 * g + 4 * r, block + 1 + 4 * g, 4);
  out[record_of(Format::MXFP4).scales_at + r] = block[0];
  return static_cast<int>(block[0]) <= 252;
}

template <Format format>
inline void unpack_super_block(const std::byte* panel, int r, float* out) {
  constexpr Record record = record_of(format);
  const float d = load_f16_1(panel + 2 * r),
              m = minimum_at(format) >= 0 ? load_f16_1(panel + 32 + 2 * r) : 0.0f;
  for (int i = 0; i < 256; ++i) {
    const std::byte* sub = panel + record.sub_at + i / kBlock * record.sub_bytes;
    const int k = i % kBlock, at = record.scales_at + (has_pairs(format) ? 2 * r + k / 16 : r);
    int scale = static_cast<int>(sub[at]), minimum = 0, code = 0;
    if constexpr (format == Format::Q2_K) {
      minimum = scale >> 4, scale &= 15;
    } else if constexpr (minimum_at(format) >= 0) {
      minimum = static_cast<int>(sub[record.minima_at + r]);
    } else {
      scale = static_cast<int8_t>(scale);
    }
    if constexpr (format == Format::IQ4_XS)
      code = kIq4Values[static_cast<int>(sub[32 * (k % 16 / 2) + 2 * r + k % 2]) >> 4 * (k / 16) & 15];
    else
      code = code_at<format>(sub, r, k) - code_offset(format);
    out[i] = d * static_cast<float>(scale) * static_cast<float>(code);
    if constexpr (minimum_at(format) >= 0) out[i] = out[i] + m * static_cast<float>(minimum);
  }
}

inline void unpack_iq4_nl_block(const std::byte* panel, int r, float* out) {
  const float d = load_f16_1(panel + record_of(Format::IQ4_NL).scales_at + 2 * r);
  for (int i = 0; i < kBlock; ++i) {
    const int byte = static_cast<int>(panel[32 * (i % 16 / 2) + 2 * r + i % 2]);
    out[i] = d * static_cast<float>(kIq4Values[byte >> 4 * (i / 16) & 15]);
  }
}

inline void unpack_mxfp4_block(const std::byte* panel, int r, float* out) {
  const float d = e8m0_half(panel + record_of(Format::MXFP4).scales_at + r);
  for (int i = 0; i < kBlock; ++i)
    out[i] = d * static_cast<float>(kMxfp4Values[code_at<Format::MXFP4>(panel, r, i)]);
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
