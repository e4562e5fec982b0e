// Matmul with packed weights. Threads split the output rows; every output sums over K in the order that
// ops/linear.h fixes, so that one token and five hundred give the same bits.
//
// Few tokens: weights stream from memory and are unpacked in registers. Many tokens: a panel of 16 rows is
// unpacked to L1 once per kTileK values of K and meets all tokens of a block there.
#pragma once

#include "cpu/half_sources.h"
#include "cpu/sources.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// Sums of one panel and a block of tokens, [token][16]; 8 KB stays in L1 beside the unpacked panel.
constexpr int kTokenBlock = 128;

template <class Source, int n>
inline void tile(const Source& source, const Input& in, int t, float* sums, bool first) {
  F32 acc[n];
  for (int i = 0; i < n; ++i) acc[i] = first ? zero() : load(sums + i * kPanelRows);
  source.template dot<n>(in, t, acc);
  for (int i = 0; i < n; ++i) store(sums + i * kPanelRows, acc[i]);
}

// Tokens t to t + n_tokens of the input, in tiles of the widest micro-kernel.
template <class Source>
inline void all_tiles(const Source& source, const Input& in, int t, int n_tokens, float* sums, bool first) {
  constexpr int wide = Source::kTile;
  for (; n_tokens >= wide; n_tokens -= wide, t += wide, sums += wide * kPanelRows)
    tile<Source, wide>(source, in, t, sums, first);
  unroll<wide>([&](auto n) LANNER_INLINE_LAMBDA {
    if constexpr (n > 0)
      if (n_tokens == n) tile<Source, n>(source, in, t, sums, first);
  });
}

template <class Layout>
inline void panel_sums(const std::byte* panel, int k, const Input& in, int t, int n_tokens,
                       std::byte* scratch, float* sums) {
  using Direct = typename Layout::Direct;
  if (n_tokens <= Direct::kTile) return all_tiles(Direct{panel, 0, k}, in, t, n_tokens, sums, true);
  for (int k0 = 0; k0 < k; k0 += Layout::kTileK) {
    const int k1 = k0 + Layout::kTileK < k ? k0 + Layout::kTileK : k;
    all_tiles(Layout::unpack(panel, k0, k1, scratch), in, t, n_tokens, sums, k0 == 0);
  }
}

// sums[i][row] of tokens t .. t + n_tokens - 1 with one panel of 16 rows.
inline void panel_sums(const Panel& panel, int k, const LinearInput& input, const Worker& worker, int t,
                       int n_tokens, float* sums) {
  const Input in(input, worker, k);
  std::byte* scratch = worker.scratch;
  switch (panel.format) {
    case Format::F32:
      return panel_sums<FloatFormat<Format::F32>>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::F16:
      return panel_sums<FloatFormat<Format::F16>>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::BF16:
      return panel_sums<FloatFormat<Format::BF16>>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::Q4_0:
      return panel_sums<CodeFormat<Format::Q4_0>>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::Q4_1:
      return panel_sums<CodeFormat<Format::Q4_1>>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::Q5_0:
      return panel_sums<CodeFormat<Format::Q5_0>>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::Q5_1:
      return panel_sums<CodeFormat<Format::Q5_1>>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::Q4_K:
      return panel_sums<CodeFormat<Format::Q4_K>>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::Q5_K:
      return panel_sums<CodeFormat<Format::Q5_K>>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::MXFP4:
      return panel_sums<CodeFormat<Format::MXFP4>>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::Q2_K:
      return panel_sums<HalfFormat<Format::Q2_K>>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::Q3_K:
      return panel_sums<HalfFormat<Format::Q3_K>>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::Q6_K:
      return panel_sums<HalfFormat<Format::Q6_K>>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::Q8_0:
      return panel_sums<WideFormat<Format::Q8_0>>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::IQ4_NL:
      return panel_sums<WideFormat<Format::IQ4_NL>>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::IQ4_XS:
      return panel_sums<WideFormat<Format::IQ4_XS>>(panel.data, k, in, t, n_tokens, scratch, sums);
  }
}

inline void write_rows(const float* sums, const Panel& panel, const Worker& worker, const Rows<float>& out,
                       int t, int n_tokens, bool add) {
  for (int i = 0; i < n_tokens; ++i) {
    float* to = out.row(worker, t + i) + panel.first_row;
    const float* from = sums + i * kPanelRows;
    if (panel.n_rows == kPanelRows) {
      store(to, add ? load(to) + load(from) : load(from));
    } else {
      for (int r = 0; r < panel.n_rows; ++r) to[r] = add ? to[r] + from[r] : from[r];
    }
  }
}

// Calls body(first token, tokens) for blocks that fit the tile of sums.
template <class Body>
inline void for_token_blocks(int n_tokens, Body body) {
  for (int t = 0; t < n_tokens; t += kTokenBlock)
    body(t, n_tokens - t < kTokenBlock ? n_tokens - t : kTokenBlock);
}

void linear(const LinearArgs& a, const Step& step, const Worker& worker, int begin, int end) {
  const PackedWeight& w = *a.weight;
  const int unit_panels = a.unit_rows / kPanelRows;
  const int first = begin * unit_panels,
            last = end * unit_panels < w.n_panels ? end * unit_panels : w.n_panels;
  alignas(64) float sums[kTokenBlock * kPanelRows];
  for_token_blocks(step.rows(a.out.kind), [&](int t, int n) {
    for (int p = first; p < last; ++p) {
      const Panel panel = panel_of(w, p);
      panel_sums(panel, w.k, a.in, worker, t, n, sums);
      write_rows(sums, panel, worker, a.out, t, n, a.add);
    }
  });
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
