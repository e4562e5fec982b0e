#include "cuda/rope_table.h"

namespace lanner::cuda {

// --- kernels ----------------------------------------------------------------------------------------------
// A thread for each angle. The table is small beside everything else: what counts is that no angle loses
// bits.
inline constexpr int kRopeThreads = 128;

struct CosSin {
  float cos, sin;
};

// Of an angle of at least 0, off by less than 1.5e-7. The angle turns n quarters and stays within pi/4 of an
// axis, in float64: pi/2 is a number of 31 bits, whose product with n < 2^22 is exact, and the rest of it.
// What remains is off by the rounding of the angle, 1.5e-11 at position 131072. The series are of float32;
// their first missing terms are 2.5e-8 (cosine) and 1.8e-9.
LANNER_DEVICE CosSin cos_sin_of(double angle) {
  const auto n = static_cast<int64_t>(angle * 0.63661977236758134 + 0.5);
  const double turns = static_cast<double>(n);
  const double rest = (angle - turns * 1.5707963267341256) - turns * 6.077100506506192e-11;
  const float x = static_cast<float>(rest), s = x * x;
  const float sine =
      x + x * s * (-0.166666667f + s * (8.33333333e-3f + s * (-1.98412698e-4f + s * 2.75573192e-6f)));
  const float cosine = 1.0f + s * (-0.5f + s * (4.16666667e-2f + s * (-1.38888889e-3f + s * 2.48015873e-5f)));
  const auto quarter = static_cast<uint32_t>(n);
  const float c = quarter % 2 ? sine : cosine, d = quarter % 2 ? cosine : sine;
  return {(quarter + 1) % 4 < 2 ? c : -c, quarter % 4 < 2 ? d : -d};
}

LANNER_KERNEL(kRopeThreads, 1)
rope_table_kernel(RopeTableArgs args) {
  begin_kernel();
  const int i = block_x() * kRopeThreads + thread_index();
  const int64_t row = block_y();
  if (row >= *args.rows.n || i >= args.half) return;
  const CosSin turned = cos_sin_of(args.positions[row] * args.inv_freq[i]);
  const float factor = static_cast<float>(args.factor);
  float* out = args.cos_sin + row * 2 * args.half;
  out[i] = factor * turned.cos, out[args.half + i] = factor * turned.sin;
}

// --- launchers --------------------------------------------------------------------------------------------
void rope_table(const RopeTableArgs& args, const Bounds& bounds) {
  const int n_rows = args.rows.bound(bounds);
  if (n_rows == 0) return;
  const Grid grid{ceil_div(args.half, kRopeThreads), n_rows};
  launch(rope_table_kernel, {grid, kRopeThreads, 0, true}, bounds.stream, args);
}

}  // namespace lanner::cuda
