// Operations on single values of rows: activate, softcap, add, scale, add_positions, add_gated.
#pragma once

#include "cpu/activations.h"
#include "ops/add.h"
#include "ops/add_gated.h"
#include "ops/add_positions.h"
#include "ops/scale.h"
#include "ops/softcap.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// out[i] = f(x[i], y[i]); out may be x.
template <class Function>
inline void combine(const float* x, const float* y, float* out, int n, Function f) {
  int i = 0;
  for (; i + 16 <= n; i += 16) store(out + i, f(load(x + i), load(y + i)));
  if (i < n) store_n(out + i, n - i, f(load_n(x + i, n - i), load_n(y + i, n - i)));
}

// The columns of units begin <= u < end.
struct Columns {
  int first, n;
};
inline Columns columns_of(const Rows<float>& x, int unit_cols, int begin, int end) {
  const int64_t last = int64_t{end} * unit_cols;
  return {begin * unit_cols, static_cast<int>((last < x.cols ? last : x.cols) - int64_t{begin} * unit_cols)};
}

void activate(const ActivateArgs& a, const Step& step, const Worker& worker, int begin, int end) {
  const Columns c = columns_of(a.x, a.unit_cols, begin, end);
  for (int t = 0; t < step.rows(a.x.kind); ++t) {
    float* x = a.x.row(worker, t) + c.first;
    activate(a.function, x, nullptr, x, c.n);
  }
}

void softcap(const SoftcapArgs& a, const Step& step, const Worker& worker, int begin, int end) {
  const Columns c = columns_of(a.x, a.unit_cols, begin, end);
  const F32 cap = set1(a.cap);
  for (int t = 0; t < step.rows(a.x.kind); ++t) {
    float* x = a.x.row(worker, t) + c.first;
    activate_with([cap](F32 v) { return cap * tanh(v / cap); }, x, nullptr, x, c.n);
  }
}

void add(const AddArgs& a, const Step&, const Worker& worker, int begin, int end) {
  const F32 factor = set1(a.factor);
  for (int t = begin; t < end; ++t)
    combine(a.x.row(worker, t), a.y.row(worker, t), a.out.row(worker, t), a.x.cols,
            [factor](F32 x, F32 y) { return fma(factor, y, x); });
}

void scale(const ScaleArgs& a, const Step&, const Worker& worker, int begin, int end) {
  const F32 factor = set1(a.factor);
  for (int t = begin; t < end; ++t)
    activate_with([factor](F32 x) { return factor * x; }, a.x.row(worker, t), nullptr, a.out.row(worker, t),
                  a.x.cols);
}

void add_positions(const AddPositionsArgs& a, const Step& step, const Worker& worker, int begin, int end) {
  for (int t = begin; t < end; ++t)
    combine(a.x.row(worker, t), a.table.data + (int64_t{step.positions[t]} + a.offset) * a.table.cols,
            a.out.row(worker, t), a.x.cols, [](F32 x, F32 y) { return x + y; });
}

void add_gated(const AddGatedArgs& a, const Step&, const Worker& worker, int begin, int end) {
  for (int t = begin; t < end; ++t) {
    const F32 gate = sigmoid(set1(*a.gate.row(worker, t)));
    combine(a.x.row(worker, t), a.y.row(worker, t), a.out.row(worker, t), a.x.cols,
            [gate](F32 x, F32 y) { return fma(gate, y, x); });
  }
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
