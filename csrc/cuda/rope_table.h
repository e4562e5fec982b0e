// cos_sin[t] = factor * cos(positions[t] * inv_freq[i]) for i < r/2, then the sines: one table serves all
// layers.
#pragma once

#include <cmath>

#include "cuda/rows.h"

namespace lanner::cuda {

struct RopeTableArgs {
  const int32_t* positions;  // (rows) of at least 0
  const double* inv_freq;    // (half) theta^(-2i/r), with any scaling applied; r: what is rotated of a head
  float* cos_sin;            // (rows, 2 half)
  int32_t half;              // r/2
  RowCount rows;
  double factor = 1;  // scores grow by its square (YaRN, Peng et al., 2023)

  template <class F>
  void each_field(F&& field) {
    field("positions", positions), field("inv_freq", inv_freq), field("cos_sin", cos_sin);
    field("half", half), field("rows", rows), field("factor", factor);
  }
};

inline void check(const RopeTableArgs& args) {
  check_present("rope_table", "positions", args.positions);
  check_present("rope_table", "inv_freq", args.inv_freq),
      check_present("rope_table", "cos_sin", args.cos_sin);
  check_multiple("rope_table", "half", args.half, 1);
  check(args.factor > 0 && std::isfinite(args.factor), "rope_table: factor is ", args.factor,
        ", wanted a positive number");
}
void rope_table(const RopeTableArgs& args, const Bounds& bounds);

}  // namespace lanner::cuda
