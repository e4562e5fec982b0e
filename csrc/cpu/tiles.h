// A source of weights against tokens, in tiles that fit the registers.
#pragma once

#include <algorithm>

#include "cpu/sources.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// Sums of one panel and a block of tokens, [token][16]: 9 KB stays in L1 beside the unpacked panel. A
// multiple of the tokens of every tile, so that a full block has no narrow one.
constexpr int kTokenBlock = 144;
constexpr int kTokenStep = 24;
static_assert(kTokenBlock % kTokenStep == 0 && kTokenStep % kFloatTile == 0 && kTokenStep % kQuantTile == 0);

template <class Source, int n>
inline void tile(const Source& source, const Input& in, int t, float* sums, bool first) {
  F32 acc[n];  // in registers only if no loop stands around it
  unroll<n>([&](auto i) LANNER_INLINE_LAMBDA { acc[i] = first ? zero() : load(sums + i * kPanelRows); });
  source.template dot<n>(in, t, acc);
  unroll<n>([&](auto i) LANNER_INLINE_LAMBDA { store(sums + i * kPanelRows, acc[i]); });
}

// Bytes that are needed next: every tile calls for its share of them, so that memory works while tiles
// compute.
struct Ahead {
  const std::byte* p = nullptr;
  int64_t n_bytes = 0;

  void prefetch_share(int n_tiles) {
    const int64_t share = (n_bytes / n_tiles + 63) / 64 * 64;
    for (int64_t i = 0; i < share && i < n_bytes; i += 64) prefetch_far(p + i);
    p += share, n_bytes -= share;
  }
};

// Tokens t to t + n_tokens of the input, in tiles of the widest micro-kernel. What the first has streamed
// lies in a cache for the others.
template <class Source>
inline void all_tiles(Source source, const Input& in, int t, int n_tokens, float* sums, bool first,
                      Ahead ahead = {}) {
  constexpr int wide = Source::kTile;
  for (; n_tokens >= wide; n_tokens -= wide, t += wide, sums += wide * kPanelRows) {
    ahead.prefetch_share((n_tokens + wide - 1) / wide);
    tile<Source, wide>(source, in, t, sums, first);
    source.streams = false;
  }
  unroll<wide>([&](auto n) LANNER_INLINE_LAMBDA {
    if constexpr (n > 0)
      if (n_tokens == n) tile<Source, n>(source, in, t, sums, first);
  });
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
