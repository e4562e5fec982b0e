// Matmul with packed weights. Threads split the output rows; every output sums over K in the order that
// ops/linear.h fixes, so that one token and five hundred give the same bits.
//
// Few tokens: weights stream from memory and are unpacked in registers. Many tokens: a panel of 16 rows is
// unpacked to L1 once per kTileK values of K and meets all tokens of a block there.
#pragma once

#include <algorithm>

#include "cpu/float_block.h"
#include "cpu/half_sources.h"
#include "cpu/sources.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// Up to so many tiles of tokens, each unpacks the panel in registers for itself: it lies in L1 after the
// first, and a copy of unpacked codes is written and read at the cost of four tiles.
constexpr int kDirectTiles = 4;

template <template <Format> class Layouts, Format format>
inline void panel_sums(const std::byte* panel, int k, const Input& in, int t, int n_tokens,
                       std::byte* scratch, float* sums) {
  using Layout = Layouts<format>;
  using Direct = typename Layout::Direct;
  if (n_tokens <= kDirectTiles * Direct::kTile)
    return all_tiles(Direct{panel, 0, k, true}, in, t, n_tokens, sums, true);
  for (int k0 = 0; k0 < k; k0 += Layout::kTileK) {
    const int k1 = k0 + Layout::kTileK < k ? k0 + Layout::kTileK : k;
    // Slices and panels follow each other; behind the last panel there is nothing to wait for.
    const std::byte* next = panel + panel_bytes<format>(k1);
    all_tiles(Layout::unpack(panel, k0, k1, scratch), in, t, n_tokens, sums, k0 == 0,
              {next, static_cast<int64_t>(panel_bytes<format>(k1 - k0))});
  }
}

// sums[i][row] of tokens t .. t + n_tokens - 1 with one panel of 16 rows.
inline void panel_sums(const Panel& panel, int k, const Input& in, std::byte* scratch, int t, int n_tokens,
                       float* sums) {
  switch (panel.format) {
    case Format::F32:
      return all_tiles(FloatSource<Format::F32>{panel.data, 0, k, true}, in, t, n_tokens, sums, true);
    case Format::F16:
      return all_tiles(FloatSource<Format::F16>{panel.data, 0, k, true}, in, t, n_tokens, sums, true);
    case Format::BF16:
      return all_tiles(FloatSource<Format::BF16>{panel.data, 0, k, true}, in, t, n_tokens, sums, true);
    case Format::Q4_0:
      return panel_sums<CodeFormat, Format::Q4_0>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::Q4_1:
      return panel_sums<CodeFormat, Format::Q4_1>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::Q5_0:
      return panel_sums<CodeFormat, Format::Q5_0>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::Q5_1:
      return panel_sums<CodeFormat, Format::Q5_1>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::Q4_K:
      return panel_sums<CodeFormat, Format::Q4_K>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::Q5_K:
      return panel_sums<CodeFormat, Format::Q5_K>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::MXFP4:
      return panel_sums<CodeFormat, Format::MXFP4>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::Q2_K:
      return panel_sums<HalfFormat, Format::Q2_K>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::Q3_K:
      return panel_sums<HalfFormat, Format::Q3_K>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::Q6_K:
      return panel_sums<HalfFormat, Format::Q6_K>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::Q8_0:
      return panel_sums<WideFormat, Format::Q8_0>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::IQ4_NL:
      return panel_sums<WideFormat, Format::IQ4_NL>(panel.data, k, in, t, n_tokens, scratch, sums);
    case Format::IQ4_XS:
      return panel_sums<WideFormat, Format::IQ4_XS>(panel.data, k, in, t, n_tokens, scratch, sums);
  }
}

// How many panels from this one on share a block of tokens: quantized ones are written while in L1.
inline int group_of(const Panel& panel, int n_tokens) {
  return input_of(panel.format) == InputKind::kFloat && n_tokens > kFloatTile ? kGroupPanels : 1;
}

// Sums of n panels, one after the other.
inline void group_sums(const Panel* panels, int n, int k, const Input& in, std::byte* scratch, int t,
                       int n_tokens, float* sums) {
  bool blocked = n_tokens > kFloatTile;
  for (int i = 0; i < n; ++i) blocked &= input_of(panels[i].format) == InputKind::kFloat;
  if (blocked) return float_sums(panels, n, k, in.x, scratch, t, n_tokens, sums);
  for (int i = 0; i < n; ++i)
    panel_sums(panels[i], k, in, scratch, t, n_tokens, sums + i * kTokenBlock * kPanelRows);
}

// Calls write(panel, sums of n tokens) for the panels panel_at(first) to panel_at(last - 1).
template <class PanelAt, class Write>
inline void for_panels(int first, int last, int k, const Input& in, const Worker& worker, int t, int n_tokens,
                       PanelAt panel_at, Write write) {
  float* sums = sums_of(worker);
  Panel panels[kGroupPanels];
  for (int p = first, n; p < last; p += n) {
    n = std::min(group_of(panel_at(p), n_tokens), last - p);
    for (int i = 0; i < n; ++i) panels[i] = panel_at(p + i);
    group_sums(panels, n, k, in, worker.scratch, t, n_tokens, sums);
    for (int i = 0; i < n; ++i) write(panels[i], sums + i * kTokenBlock * kPanelRows);
  }
}

// A bias of null is none; otherwise bias[row] is added to the sums of a row.
inline void write_rows(const float* sums, const Panel& panel, const Worker& worker, const Rows<float>& out,
                       int t, int n_tokens, bool add, const float* bias) {
  if (bias) bias += panel.first_row;
  for (int i = 0; i < n_tokens; ++i) {
    float* to = out.row(worker, t + i) + panel.first_row;
    const float* from = sums + i * kPanelRows;
    if (panel.n_rows == kPanelRows) {
      const F32 sum = bias ? load(from) + load(bias) : load(from);
      store(to, add ? load(to) + sum : sum);
    } else {
      for (int r = 0; r < panel.n_rows; ++r) {
        const float sum = bias ? from[r] + bias[r] : from[r];
        to[r] = add ? to[r] + sum : sum;
      }
    }
  }
}

// Calls body(first token, tokens) for blocks of equal length of at most `most` <= kTokenBlock tokens.
template <class Body>
inline void for_token_blocks(int n_tokens, int most, Body body) {
  const int n_blocks = (n_tokens + most - 1) / most;
  const int n_equal = (n_tokens + n_blocks - 1) / std::max(n_blocks, 1);
  const int n_each = std::min((n_equal + kTokenStep - 1) / kTokenStep * kTokenStep, most);
  for (int t = 0; t < n_tokens; t += n_each) body(t, n_tokens - t < n_each ? n_tokens - t : n_each);
}

void linear(const LinearArgs& a, const Step& step, const Worker& worker, int begin, int end) {
  const PackedWeight& w = *a.weight;
  const int unit_panels = a.unit_rows / kPanelRows;
  const int first = begin * unit_panels, last = std::min(end * unit_panels, w.n_panels);
  const Input in(a.in, worker, w.k);
  for_token_blocks(step.rows(a.out.kind), kTokenBlock, [&](int t, int n) {
    for_panels(
        first, last, w.k, in, worker, t, n, [&](int p) { return panel_of(w, p); },
        [&](const Panel& panel, const float* sums) {
          write_rows(sums, panel, worker, a.out, t, n, a.add, a.bias.data);
        });
  });
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
