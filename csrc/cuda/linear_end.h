// What the kernels of `linear` do with a finished sum.
#pragma once

#include "cuda/linear.h"

namespace lanner::cuda {

// Row of the cache, page * 32 + position in the page, to which the token is appended. To be looked up early:
// two dependent loads.
LANNER_DEVICE int32_t kv_slot(const RopeAppend& qkv, int token) {
  const int position = qkv.positions[token];
  const int32_t* pages = qkv.block_tables + int64_t{qkv.token_seqs[token]} * qkv.max_pages;
  return pages[position / kPagePositions] * kPagePositions + position % kPagePositions;
}

// Where a tile of q, k and v goes: rows 0..7 to low, 8..15 to high. `angles` of rotated ones: the cosines of
// the eight pairs, and rope_dim / 2 further their sines; else null.
struct QkvTile {
  bf16* low;
  bf16* high;
  const float* angles;
};

LANNER_DEVICE QkvTile qkv_tile(const LinearArgs& args, int tile, int token, int32_t slot) {
  const RopeAppend& qkv = args.qkv;
  const int head_tiles = qkv.head_dim / kTileRows;
  const int head = tile / head_tiles, m = tile % head_tiles;
  const bool rotates = head < qkv.n_heads + qkv.n_kv_heads && m < qkv.rope_dim / kTileRows;
  bf16* to;
  if (head < qkv.n_heads) {
    to = args.out + (int64_t{token} * qkv.n_heads + head) * qkv.head_dim;
  } else {  // Heads of V follow those of K, in the matrix as in a page.
    const int64_t page = slot / kPagePositions;
    to = qkv.cache +
         ((page * 2 * qkv.n_kv_heads + head - qkv.n_heads) * kPagePositions + slot % kPagePositions) *
             qkv.head_dim;
  }
  to += rotates ? m * 8 : m * kTileRows;
  return {to, to + (rotates ? qkv.rope_dim / 2 : 8),
          rotates ? qkv.cos_sin + int64_t{token} * qkv.rope_dim + m * 8 : nullptr};
}

LANNER_DEVICE void end_qkv(const LinearArgs& args, int tile, int g, int token, int32_t slot, float low,
                           float high) {
  const QkvTile to = qkv_tile(args, tile, token, slot);
  if (to.angles != nullptr) {
    const float cosine = to.angles[g], sine = to.angles[args.qkv.rope_dim / 2 + g], first = low;
    low = first * cosine - high * sine;
    high = high * cosine + first * sine;
  }
  to.low[g] = to_bf16(low), to.high[g] = to_bf16(high);
}

// Takes the sums of rows g and g + 8 of a tile with a token, normed already. slot is kv_slot() of kQkv.
LANNER_DEVICE void end_rows(const LinearArgs& args, int tile, int g, int token, int32_t slot, float low,
                            float high) {
  const int row = tile * kTileRows + g, n = args.weight.n;
  if (args.bias) low += args.bias[row], high += args.bias[row + 8];
  switch (args.end) {
    case LinearEnd::kStore: {
      const int64_t at = int64_t{token} * n + row;
      if (row < n) args.out[at] = to_bf16(args.residual ? low + to_float(args.residual[at]) : low);
      if (row + 8 < n)
        args.out[at + 8] = to_bf16(args.residual ? high + to_float(args.residual[at + 8]) : high);
      break;
    }
    case LinearEnd::kLogits: {
      float* to = args.logits + int64_t{token} * n + row;
      if (row < n) to[0] = low;
      if (row + 8 < n) to[8] = high;
      break;
    }
    case LinearEnd::kGated:
      args.out[int64_t{token} * (n / 2) + tile * 8 + g] = to_bf16(activation(args.function, low) * high);
      break;
    case LinearEnd::kQkv:
      end_qkv(args, tile, g, token, slot, low, high);
      break;
  }
}

}  // namespace lanner::cuda
