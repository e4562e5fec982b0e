// Element formats of weights as files store them, and the size of one block of each.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lanner {

enum class Format : uint8_t {
  F32,
  F16,
  BF16,
  Q4_0,
  Q4_1,
  Q5_0,
  Q5_1,
  Q8_0,
  Q2_K,
  Q3_K,
  Q4_K,
  Q5_K,
  Q6_K,
  IQ4_NL,
  IQ4_XS,
  MXFP4,
};

struct FormatInfo {
  Format format;
  const char* name;  // lower case, as Python spells it
  uint32_t ggml_id;  // number of the type in a GGUF file
  uint32_t block;    // elements in a block
  uint32_t bytes;    // bytes of a block
};

// Sizes follow the block structs of the GGUF specification: f16 scales, packed codes, minima.
inline constexpr FormatInfo kFormats[] = {
    {Format::F32, "f32", 0, 1, 4},
    {Format::F16, "f16", 1, 1, 2},
    {Format::BF16, "bf16", 30, 1, 2},
    {Format::Q4_0, "q4_0", 2, 32, 18},
    {Format::Q4_1, "q4_1", 3, 32, 20},
    {Format::Q5_0, "q5_0", 6, 32, 22},
    {Format::Q5_1, "q5_1", 7, 32, 24},
    {Format::Q8_0, "q8_0", 8, 32, 34},
    {Format::Q2_K, "q2_k", 10, 256, 84},
    {Format::Q3_K, "q3_k", 11, 256, 110},
    {Format::Q4_K, "q4_k", 12, 256, 144},
    {Format::Q5_K, "q5_k", 13, 256, 176},
    {Format::Q6_K, "q6_k", 14, 256, 210},
    {Format::IQ4_NL, "iq4_nl", 20, 32, 18},
    {Format::IQ4_XS, "iq4_xs", 23, 256, 136},
    {Format::MXFP4, "mxfp4", 39, 32, 17},
};

constexpr const FormatInfo& info(Format format) { return kFormats[static_cast<size_t>(format)]; }

// nullptr where the number names no format of this library.
constexpr const FormatInfo* format_from_ggml_id(uint32_t id) {
  for (const FormatInfo& f : kFormats)
    if (f.ggml_id == id) return &f;
  return nullptr;
}

// Bytes of a row of n elements; n is a multiple of the block.
constexpr size_t row_bytes(Format format, size_t n) { return n / info(format).block * info(format).bytes; }

}  // namespace lanner
