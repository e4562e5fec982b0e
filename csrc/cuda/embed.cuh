#include "cuda/embed.h"

namespace lanner::cuda {

// --- kernels ----------------------------------------------------------------------------------------------
// A thread takes what a lane of a matmul would of a unit: 2 times 8 neighbours of row g, and with them those
// of row g + 8, which it drops. Four threads have the 64 columns of a unit in 64-byte pieces, which are whole
// sectors.
inline constexpr int kEmbedThreads = 128;

template <WeightType type>
LANNER_KERNEL(kEmbedThreads, 1)
embed_kernel(EmbedArgs args) {
  begin_kernel();
  const int i = block_x() * kEmbedThreads + thread_index(), unit = i / 4, c = i % 4;
  const int64_t row = block_y();
  const Weight& w = args.weight;
  if (row >= *args.rows.n || unit >= n_units(w)) return;
  const int id = args.token_ids[row], lane = id % 8 * 4 + c;
  const bool is_high = id % kTileRows >= 8;
  const int64_t at = int64_t{id / kTileRows} * n_units(w) + unit;
  const auto* codes = static_cast<const unsigned char*>(w.codes) + at * unit_code_bytes(type) + lane * 16;
  const auto* scales = static_cast<const unsigned char*>(w.scales) + at * unit_scale_bytes(type) +
                       lane_scale_offset(type, lane);
  Bytes16 loads[unit_loads(type)];
  LANNER_UNROLL
  for (int k = 0; k < unit_loads(type); ++k) loads[k] = load16(codes + k * kLoadBytes);
  bf16* out = args.out + row * w.k + unit * kUnitK + 8 * c;
  LANNER_UNROLL
  for (int j = 0; j < kUnitK / kGroupK; ++j) {
    GroupScales s{};
    if constexpr (type != WeightType::kBf16) s = group_scales<type>(scales, j);
    uint32_t first[4], second[4];
    weight_fragment<type>(loads, s, 2 * j, first), weight_fragment<type>(loads, s, 2 * j + 1, second);
    const Bytes16 low{first[0], first[2], second[0], second[2]},
        high{first[1], first[3], second[1], second[3]};
    store16(out + kGroupK * j, is_high ? high : low);
  }
}

// --- launchers --------------------------------------------------------------------------------------------
void embed(const EmbedArgs& args, const Bounds& bounds) {
  const int n_rows = args.rows.bound(bounds);
  if (n_rows == 0) return;
  const LaunchShape shape{
      {ceil_div(n_units(args.weight) * 4, kEmbedThreads), n_rows}, kEmbedThreads, 0, true};
  const auto with = [&](auto kernel) { launch(kernel, shape, bounds.stream, args); };
  switch (args.weight.type) {
    case WeightType::kBf16:
      return with(embed_kernel<WeightType::kBf16>);
    case WeightType::kInt8:
      return with(embed_kernel<WeightType::kInt8>);
    case WeightType::kInt4:
      return with(embed_kernel<WeightType::kInt4>);
  }
}

}  // namespace lanner::cuda
