// Mixture of experts: the matmuls of those experts that tokens of the step chose, each with the rows of its
// tokens.
//
// A unit is a range of output rows for all experts, walked in ascending id, so that a token adds up its
// experts in that order whatever its batch mates chose. An expert that nobody chose is not read; one that
// many chose is read once per block of tokens.
#pragma once

#include "cpu/gate_up.h"
#include "ops/experts_down.h"
#include "ops/experts_gate_up.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// Scratch behind the sums (cpu/float_block.h): choices by expert, then the rows of one expert side by side.
constexpr size_t kChoicesAt = size_t{512} << 10, kGatheredAt = size_t{1} << 20;
constexpr int kMostChoices = 1 << 16;  // sorted at a time
static_assert(kSumsEnd <= kChoicesAt &&
              kChoicesAt + sizeof(int32_t) * (kMostChoices + kMaxExperts) <= kGatheredAt);

// Choices of tokens first_token to first_token + n_tokens - 1 in order of their experts; those of one expert
// in the order of tokens.
class Choices {
 public:
  Choices(const Rows<int32_t>& ids, const Worker& worker, int n_experts, int first_token, int n_tokens)
      : ends_(reinterpret_cast<int32_t*>(worker.scratch + kChoicesAt)), choices_(ends_ + kMaxExperts) {
    const int32_t* id = ids.row(worker, first_token);
    const int first = first_token * ids.cols, n = n_tokens * ids.cols;
    const auto known = [n_experts](int32_t e) { return e >= 0 && e < n_experts; };
    std::memset(ends_, 0, sizeof(int32_t) * static_cast<size_t>(n_experts));
    for (int i = 0; i < n; ++i)
      if (known(id[i])) ++ends_[id[i]];
    for (int e = 0, at = 0; e < n_experts; ++e) {
      const int count = ends_[e];
      ends_[e] = at;  // the start; it moves to the end as choices come in
      at += count;
    }
    for (int i = 0; i < n; ++i)
      if (known(id[i])) choices_[ends_[id[i]]++] = first + i;
  }

  int count(int expert) const { return ends_[expert] - start(expert); }
  const int32_t* of(int expert) const { return choices_ + start(expert); }

 private:
  int start(int expert) const { return expert ? ends_[expert - 1] : 0; }

  int32_t* ends_;
  int32_t* choices_;
};

// Rows `at[0]`, ..., `at[n - 1]` of an input side by side: where they are, if they are so, or copied.
inline Input gather(const Input& in, const int32_t* at, int n, std::byte* to) {
  if (at[n - 1] - at[0] == n - 1) return in.from(at[0]);
  Input out = in;
  const auto copy = [&](const auto* from, int64_t row_items, auto& target) {
    using Item = std::remove_cvref_t<decltype(*from)>;
    if (!from) return;
    const size_t row_bytes = static_cast<size_t>(row_items) * sizeof(Item);
    target = reinterpret_cast<const Item*>(to);
    for (int i = 0; i < n; ++i, to += row_bytes) std::memcpy(to, from + at[i] * row_items, row_bytes);
  };
  copy(in.x, in.k, out.x);
  copy(in.int8, int8_row_bytes(in.k), out.int8);
  copy(in.int16, int16_row_bytes(in.k), out.int16);
  return out;
}

// Calls body(expert, choices, their number, their input) for every block of choices of every expert in use.
// row_of(choice) is the row of the input that it reads.
template <class RowOf, class Body>
inline void for_experts(const Rows<int32_t>& ids, int n_experts, int n_tokens, const Input& in,
                        const Worker& worker, RowOf row_of, Body body) {
  const int most_tokens = kMostChoices / ids.cols;
  const int64_t room = static_cast<int64_t>(kScratchBytes - kGatheredAt) / in.row_bytes();
  const int most = room < 1             ? 1
                   : room < kTokenBlock ? static_cast<int>(room)
                                        : kTokenBlock;  // rows side by side
  for (int t = 0; t < n_tokens; t += most_tokens) {
    const Choices choices(ids, worker, n_experts, t, std::min(most_tokens, n_tokens - t));
    for (int e = 0; e < n_experts; ++e)
      for_token_blocks(choices.count(e), most, [&](int first, int n) {
        const int32_t* block = choices.of(e) + first;
        int32_t rows[kTokenBlock];
        for (int i = 0; i < n; ++i) rows[i] = row_of(block[i]);
        body(e, block, n, gather(in, rows, n, worker.scratch + kGatheredAt));
      });
  }
}

void experts_gate_up(const ExpertsGateUpArgs& a, const Step& step, const Worker& worker, int begin, int end) {
  const PackedWeight& w = *a.weight;
  const int half = panels_of_expert(w, a.n_experts) / 2, unit_panels = a.unit_rows / kPanelRows,
            k = a.ids.cols;
  const int first = begin * unit_panels, last = std::min(end * unit_panels, half);
  const int64_t m = a.out.cols / k;  // choice c has floats c * m to (c + 1) * m - 1 of out
  float* out = a.out.row(worker, 0);
  const auto token_of = [k](int32_t choice) { return choice / k; };
  const auto run = [&](int e, const int32_t* choices, int n, const Input& in) {
    for_gated_panels(
        first, last, half, w.k, a.function, in, worker, 0, n,
        [&](int p) { return expert_panel(w, a.n_experts, e, p); },
        [&](const Panel& panel, const float* sums) {
          for (int i = 0; i < n; ++i)
            store_upto(out + choices[i] * m + panel.first_row, panel.n_rows, load(sums + i * kPanelRows));
        });
  };
  for_experts(a.ids, a.n_experts, step.rows(a.out.kind), Input(a.in, worker, w.k), worker, token_of, run);
}

// Columns of the panels first <= p < last of an expert.
inline void clear_columns(const ExpertsDownArgs& a, const Worker& worker, int n_tokens, int first, int last) {
  const int column = expert_panel(*a.weight, a.n_experts, 0, first).first_row;
  const Panel end = expert_panel(*a.weight, a.n_experts, 0, last - 1);
  for (int t = 0; t < n_tokens; ++t)
    std::memset(a.out.row(worker, t) + column, 0, sizeof(float) * (end.first_row + end.n_rows - column));
}

void experts_down(const ExpertsDownArgs& a, const Step& step, const Worker& worker, int begin, int end) {
  const PackedWeight& w = *a.weight;
  const int unit_panels = a.unit_rows / kPanelRows, k = a.ids.cols, n_tokens = step.rows(a.out.kind);
  const int first = begin * unit_panels;
  const int last = std::min(end * unit_panels, panels_of_expert(w, a.n_experts));
  if (first >= last) return;
  if (!a.add) clear_columns(a, worker, n_tokens, first, last);
  const float* weights = a.weights.row(worker, 0);
  const auto row_of = [](int32_t choice) { return choice; };
  const auto run = [&](int e, const int32_t* choices, int n, const Input& in) {
    for_panels(
        first, last, w.k, in, worker, 0, n, [&](int p) { return expert_panel(w, a.n_experts, e, p); },
        [&](const Panel& panel, const float* sums) {
          for (int i = 0; i < n; ++i) {
            float* to = a.out.row(worker, choices[i] / k) + panel.first_row;
            const F32 weight = set1(weights[choices[i]]);
            store_upto(to, panel.n_rows,
                       fma(weight, load(sums + i * kPanelRows), load_upto(to, panel.n_rows)));
          }
        });
  };
  for_experts(a.ids, a.n_experts, n_tokens, Input(a.in, worker, w.k), worker, row_of, run);
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
