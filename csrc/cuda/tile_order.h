// In which order blocks take the tiles of a matmul.
#pragma once

#include "cuda/device.h"

namespace lanner::cuda {

struct Tile {
  int token, row;  // which tile along tokens, along weight rows
};

// Tiles that run at the same time should share what they read, so that it comes from L2. 100 to 260 run at a
// time; in bands of 8 tiles along tokens these are 8 by 13 to 32, near a square, and one band reads each
// weight once.
LANNER_DEVICE Tile tile_of(int i, int n_token_tiles, int n_row_tiles) {
  constexpr int kBand = 8;
  const int band = i / (kBand * n_row_tiles), rest = i % (kBand * n_row_tiles);
  const int left = n_token_tiles - band * kBand, width = left < kBand ? left : kBand;
  return {band * kBand + rest % width, rest / width};
}

}  // namespace lanner::cuda
