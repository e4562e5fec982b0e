// Float weights against many tokens. A block of the input is copied to where its rows are a fixed, odd number
// of cache lines apart, and serves a group of panels there: in place, rows that are a power of two apart
// would share the same few lines of L1.
#pragma once

#include "cpu/tiles.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// Panels that share a copied block, so that copying costs a fiftieth of the multiply-adds. Their sums (144
// KB), the block (153 KB) and an unpacked panel fit a level-2 cache of 512 KB.
constexpr int kGroupPanels = 16;

constexpr int kFloatTileK = 256;  // a panel of 16 KB, half of L1
constexpr int kBlockStride = kFloatTileK + 16;

using BlockSource = FloatSource<Format::F32, kBlockStride>;

// Values k0 to k1 - 1 of K of a panel as float32, in place where they are.
template <Format format>
inline BlockSource unpack_floats(const std::byte* panel, int k0, int k1, float* to) {
  constexpr int bytes = record_of(format).n_bytes;
  const std::byte* from = panel + static_cast<size_t>(k0) * bytes;
  if constexpr (format == Format::F32) return {from, 0, k1 - k0};
  for (int k = 0; k < k1 - k0; ++k) store(to + 16 * k, load_weights<format>(from + k * bytes));
  return {reinterpret_cast<const std::byte*>(to), 0, k1 - k0};
}

inline BlockSource unpack_floats(const Panel& panel, int k0, int k1, float* to) {
  switch (panel.format) {
    case Format::F16:
      return unpack_floats<Format::F16>(panel.data, k0, k1, to);
    case Format::BF16:
      return unpack_floats<Format::BF16>(panel.data, k0, k1, to);
    default:
      return unpack_floats<Format::F32>(panel.data, k0, k1, to);
  }
}

// sums[panel][token][row] of n float panels with tokens t to t + n_tokens - 1 of x (T, K).
inline void float_sums(const Panel* panels, int n, int k, const float* x, std::byte* scratch, int t,
                       int n_tokens, float* sums) {
  float* block = reinterpret_cast<float*>(scratch);
  float* unpacked = block + kTokenBlock * kBlockStride;
  for (int k0 = 0; k0 < k; k0 += kFloatTileK) {
    const int k1 = std::min(k0 + kFloatTileK, k);
    for (int i = 0; i < n_tokens; ++i)
      std::memcpy(block + i * kBlockStride, x + (t + i) * int64_t{k} + k0, sizeof(float) * (k1 - k0));
    const Input in(block);
    for (int i = 0; i < n; ++i) {
      const Panel& next = panels[i + 1 < n ? i + 1 : 0];
      const int64_t row = record_of(next.format).n_bytes, next_k0 = i + 1 < n ? k0 : k1;
      const Ahead ahead{next.data + next_k0 * row, std::min<int64_t>(kFloatTileK, k - next_k0) * row};
      all_tiles(unpack_floats(panels[i], k0, k1, unpacked), in, 0, n_tokens,
                sums + i * kTokenBlock * kPanelRows, k0 == 0, ahead);
    }
  }
}

// Where the sums of a group of panels stand in the scratch of a thread.
constexpr size_t kSumsAt = sizeof(float) * (kTokenBlock * kBlockStride + kFloatTileK * kPanelRows);
constexpr size_t kSumsEnd = kSumsAt + sizeof(float) * kGroupPanels * kTokenBlock * kPanelRows;
static_assert(kSumsEnd <= kScratchBytes);
inline float* sums_of(const Worker& worker) { return reinterpret_cast<float*>(worker.scratch + kSumsAt); }

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
