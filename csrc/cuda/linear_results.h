// What the kernels for many tokens do with finished sums: they pass through shared memory, warp by warp, so
// that lanes have neighbouring rows of a token and store 16 bytes.
#pragma once

#include "cuda/linear_end.h"

namespace lanner::cuda {

// (kTokens, kRows) float32 of a warp, kRows a multiple of 32. Chunks of 4 rows are exchanged by bits of
// token / kTokenStep % 4, so that what a warp writes and reads at once lies in different banks: it writes
// tokens kTokenStep apart.
template <int kTokens, int kRows, int kTokenStep>
class Results {
 public:
  static constexpr int kBytes = kTokens * kRows * 4;
  LANNER_DEVICE explicit Results(void* shared) : values_(static_cast<float*>(shared)) {}

  LANNER_DEVICE float* at(int token, int row) const {
    return values_ + token * kRows + ((row / 4) ^ (token / kTokenStep % 4 * 2)) * 4 + row % 4;
  }

  // Ends rows row0.. of the matrix, a multiple of 16, and tokens token0.. below n_tokens, which lie here from
  // (0, 0). By all lanes.
  LANNER_DEVICE void store(const LinearArgs& args, int row0, int token0, int n_tokens) const {
    const bool combines = args.end == LinearEnd::kGated || args.end == LinearEnd::kQkv;
    if (combines) {
      combine(args, row0, token0, n_tokens);
      sync_warp();
    }
    constexpr int kUnits = kRows / 8;
    LANNER_ROLLED
    for (int i = lane_index(); i < kTokens * kUnits; i += kWarpSize) {
      const int t = i / kUnits, token = token0 + t, row = row0 + i % kUnits * 8;
      if (token < n_tokens && row < args.weight.n) store_eight(args, t, i % kUnits, row, token, !combines);
    }
  }

 private:
  LANNER_DEVICE static Float4 load(const float* p) { return *reinterpret_cast<const Float4*>(p); }
  LANNER_DEVICE static void add(Float4& a, const Float4& b) {
    a.x += b.x, a.y += b.y, a.z += b.z, a.w += b.w;
  }

  // Rows g and g + 8 of each 16, in place.
  LANNER_DEVICE void combine(const LinearArgs& args, int row0, int token0, int n_tokens) const {
    LANNER_ROLLED
    for (int i = lane_index(); i < kTokens * kRows / 2; i += kWarpSize) {
      // Four tokens at once, as far apart as those that a warp writes at once.
      const int g = i % 8, q = i / 8 % kTokens, unit = i / 8 / kTokens;
      const int t = q % 4 * kTokenStep + q / 4 % kTokenStep + q / (4 * kTokenStep) * (4 * kTokenStep);
      const int token = token0 + t, tile = row0 / kTileRows + unit;
      if (token >= n_tokens || tile >= n_tiles(args.weight)) continue;
      float* const low = at(t, unit * kTileRows + g);
      float* const high = at(t, unit * kTileRows + 8 + g);
      float a = *low, b = *high;
      if (args.bias != nullptr)
        a += args.bias[tile * kTileRows + g], b += args.bias[tile * kTileRows + 8 + g];
      if (args.end == LinearEnd::kGated) {
        *low = activation(args.function, a) * b;
      } else {
        const float* angles = qkv_tile(args, tile, token, 0).angles;
        const float cosine = angles ? angles[g] : 1.0f,
                    sine = angles ? angles[args.qkv.rope_dim / 2 + g] : 0.0f;
        *low = a * cosine - b * sine;
        *high = b * cosine + a * sine;
      }
    }
  }

  LANNER_DEVICE void store_eight(const LinearArgs& args, int t, int unit, int row, int token,
                                 bool adds_bias) const {
    if (args.end == LinearEnd::kGated && unit % 2 != 0) return;
    // Half of the lanes read the second half first: each of the two reads has all banks.
    const bool second_first = lane_index() / 4 % 2;
    const Float4 first = load(at(t, unit * 8 + second_first * 4));
    const Float4 second = load(at(t, unit * 8 + !second_first * 4));
    Float4 low = second_first ? second : first, high = second_first ? first : second;
    if (adds_bias && args.bias != nullptr)
      add(low, load(args.bias + row)), add(high, load(args.bias + row + 4));

    const int n = args.weight.n;
    const int64_t place = int64_t{token} * n + row;
    if (n % 8 != 0) return store_some(args, place, n - row, low, high);
    if (args.end == LinearEnd::kLogits) {
      Float4* to = reinterpret_cast<Float4*>(args.logits + place);
      to[0] = low, to[1] = high;
      return;
    }
    bf16* to = args.out + place;
    if (args.end == LinearEnd::kGated) {
      to = args.out + int64_t{token} * (n / 2) + row / 2;
    } else if (args.end == LinearEnd::kQkv) {
      const QkvTile tile = qkv_tile(args, row / kTileRows, token, kv_slot(args.qkv, token));
      to = unit % 2 ? tile.high : tile.low;
    } else if (args.residual != nullptr) {
      const Bytes16 r = load16(args.residual + place);
      const Float2 a = unpack_bf16(r.x), b = unpack_bf16(r.y), c = unpack_bf16(r.z), d = unpack_bf16(r.w);
      add(low, {a.x, a.y, b.x, b.y}), add(high, {c.x, c.y, d.x, d.y});
    }
    store16(to, {pack_bf16(low.x, low.y), pack_bf16(low.z, low.w), pack_bf16(high.x, high.y),
                 pack_bf16(high.z, high.w)});
  }

  // Rows of kStore and kLogits in a matrix whose rows of results are not aligned to 16 bytes.
  LANNER_DEVICE static void store_some(const LinearArgs& args, int64_t place, int n_left, const Float4& low,
                                       const Float4& high) {
    const float v[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    LANNER_UNROLL
    for (int r = 0; r < 8; ++r) {
      if (r >= n_left) return;
      if (args.end == LinearEnd::kLogits)
        args.logits[place + r] = v[r];
      else
        args.out[place + r] = to_bf16(args.residual ? v[r] + to_float(args.residual[place + r]) : v[r]);
    }
  }

  float* values_;
};

}  // namespace lanner::cuda
