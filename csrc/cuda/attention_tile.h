// What both attention kernels do with a tile in shared memory: scores, softmax, and the sum of values.
//
// A tile is rows of D bf16. The 16-byte chunk c of row r lies at chunk c ^ (r % 8) of its row, so that the
// eight rows that a matrix load reads at once lie in different banks. Offsets are in bytes.
#pragma once

#include <cmath>

#include "cuda/attention.h"
#include "cuda/rows.h"

namespace lanner::cuda {

// Stands for the maximum of no score: finite, so that what is not seen has exp2(-inf - maximum) = 0.
inline constexpr float kNoMaximum = -1e30f;
// The maximum of a row follows only when weights would exceed 2^8: bf16 and
// float32 have the same relative precision at 2^8, and most tiles then leave the sums as they are.
inline constexpr float kSlackBits = 8;

template <int D>
LANNER_DEVICE uint32_t tile_offset(int row, int chunk) {
  return static_cast<uint32_t>(row * D * 2 + ((chunk ^ (row & 7)) << 4));
}

// Where a lane reads 16 x 16 values as operand a (or b transposed), and 16 rows of keys as operand b. XOR
// with 32 k moves by 16 k columns, because rows begin at multiples of 128 bytes; 16 rows are 32 D bytes.
template <int D>
LANNER_DEVICE uint32_t lane_offset_rows(int lane) {
  return tile_offset<D>(lane & 15, lane >> 4);
}
template <int D>
LANNER_DEVICE uint32_t lane_offset_keys(int lane) {
  return tile_offset<D>((lane & 7) + ((lane >> 4) << 3), (lane >> 3) & 1);
}

// d += a [b0 b1]: two neighbouring n8 tiles.
LANNER_DEVICE void mma_pair(float (&d0)[4], float (&d1)[4], const uint32_t (&a)[4], const uint32_t (&b)[4]) {
  const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
  mma_bf16(d0, a, first);
  mma_bf16(d1, a, second);
}

// Sixteen rows per tile of rows: sums of values, maxima and sums of weights of rows lane / 4 and lane / 4
// + 8.
template <int D, int kRowTiles>
struct AttentionSums {
  float o[kRowTiles][D / 8][4];
  float maximum[kRowTiles][2];
  float sum[kRowTiles][2];  // of the columns of this lane

  LANNER_DEVICE void clear() {
    LANNER_UNROLL for (int r = 0; r < kRowTiles; r++) {
      LANNER_UNROLL for (int d = 0; d < D / 8; d++) LANNER_UNROLL for (int e = 0; e < 4; e++) o[r][d][e] = 0;
      LANNER_UNROLL for (int h = 0; h < 2; h++) maximum[r][h] = kNoMaximum, sum[r][h] = 0;
    }
  }
};

template <int kKeys, int kRowTiles>
using Scores = float[kRowTiles][kKeys / 8][4];

// scores = q k^T of one tile of keys. load_q(fragments, k) gives columns 16 k of the query rows.
template <int D, int kKeys, int kRowTiles, class LoadQ>
LANNER_DEVICE void score_keys(Scores<kKeys, kRowTiles>& s, const std::byte* keys, uint32_t lane_offset,
                              const LoadQ& load_q) {
  LANNER_UNROLL for (int r = 0; r < kRowTiles; r++) {
    LANNER_UNROLL for (int n = 0; n < kKeys / 8; n++) LANNER_UNROLL for (int e = 0; e < 4; e++) s[r][n][e] =
        0;
  }
  LANNER_UNROLL for (int k = 0; k < D / 16; k++) {
    uint32_t q[kRowTiles][4];
    load_q(q, k);
    LANNER_UNROLL for (int n = 0; n < kKeys / 16; n++) {
      uint32_t b[4];
      load_matrices(b, keys + (lane_offset ^ (k << 5)) + n * 32 * D);
      LANNER_UNROLL for (int r = 0; r < kRowTiles; r++) mma_pair(s[r][2 * n], s[r][2 * n + 1], q[r], b);
    }
  }
}

// Scores become log2(e) c tanh(s scale / c): tanh x = 1 - 2 / (1 + e^2x) to 2^-22, where tanh.approx has
// 2^-11, which a cap of 50 would make an error of 2.4 % in a weight.
template <int kKeys, int kRowTiles>
LANNER_DEVICE void cap_scores(Scores<kKeys, kRowTiles>& s, float scale, float softcap) {
  const float in = 2 * kLog2E * scale / softcap, out = kLog2E * softcap;
  LANNER_UNROLL for (int r = 0; r < kRowTiles; r++) {
    LANNER_UNROLL for (int n = 0; n < kKeys / 8; n++) {
      LANNER_UNROLL for (int e = 0; e < 4; e++) s[r][n][e] =
          out - 2 * out * rcp_approx(1 + exp2_approx(s[r][n][e] * in));
    }
  }
}

// -inf where a row does not see the key: it sees the `window` keys before end(row). `key` is the first of the
// tile's that this lane has, that of its score 0.
template <int kKeys, int kRowTiles, class End>
LANNER_DEVICE void mask_scores(Scores<kKeys, kRowTiles>& s, const End& end, int window, int key) {
  LANNER_UNROLL for (int r = 0; r < kRowTiles; r++) {
    LANNER_UNROLL for (int h = 0; h < 2; h++) {
      const int last = end(16 * r + 8 * h + lane_index() / 4) - 1 - key;
      LANNER_UNROLL for (int n = 0; n < kKeys / 8; n++) {
        LANNER_UNROLL for (int e = 0; e < 2; e++) {
          const auto behind = static_cast<uint32_t>(last - (8 * n + e));
          if (behind >= static_cast<uint32_t>(window)) s[r][n][2 * h + e] = -INFINITY;
        }
      }
    }
  }
}

LANNER_DEVICE float maximum_of_quad(float x) {
  x = fmaxf(x, shuffle_xor(x, 1));
  return fmaxf(x, shuffle_xor(x, 2));
}
LANNER_DEVICE float sum_of_quad(float x) {
  x += shuffle_xor(x, 1);
  return x + shuffle_xor(x, 2);
}

// Raises the maxima to those of the scores, where these have outgrown them, and scales the sums to the new
// ones. The decision is each row's own: its bits do not depend on the rows beside it. log2 of a weight is
// `scale` times its score; maxima are in log2.
template <int D, int kKeys, int kRowTiles>
LANNER_DEVICE void raise_maxima(AttentionSums<D, kRowTiles>& sums, const Scores<kKeys, kRowTiles>& s,
                                float scale) {
  float top[kRowTiles][2];
  bool outgrown = false;
  LANNER_UNROLL for (int r = 0; r < kRowTiles; r++) {
    LANNER_UNROLL for (int h = 0; h < 2; h++) {
      float x = fmaxf(s[r][0][2 * h], s[r][0][2 * h + 1]);
      LANNER_UNROLL for (int n = 1; n < kKeys / 8; n++) {
        x = fmaxf(x, fmaxf(s[r][n][2 * h], s[r][n][2 * h + 1]));
      }
      top[r][h] = maximum_of_quad(x) * scale;
      outgrown = outgrown || top[r][h] > sums.maximum[r][h] + kSlackBits;
    }
  }
  if (ballot(outgrown) == 0) return;
  LANNER_UNROLL for (int r = 0; r < kRowTiles; r++) {
    LANNER_UNROLL for (int h = 0; h < 2; h++) {
      const float old = sums.maximum[r][h];
      const float raised = top[r][h] > old + kSlackBits ? top[r][h] : old;
      const float factor = exp2_approx(old - raised);
      sums.maximum[r][h] = raised;
      sums.sum[r][h] *= factor;
      LANNER_UNROLL for (int d = 0; d < D / 8; d++) {
        sums.o[r][d][2 * h] *= factor, sums.o[r][d][2 * h + 1] *= factor;
      }
    }
  }
}

// sums += weights of the scores times one tile of values. Rounded weights of sixteen keys are operand a of
// the tensor core in the registers where they are.
template <int D, int kKeys, int kRowTiles>
LANNER_DEVICE void add_values(AttentionSums<D, kRowTiles>& sums, const Scores<kKeys, kRowTiles>& s,
                              float scale, const std::byte* values, uint32_t lane_offset) {
  LANNER_UNROLL for (int k = 0; k < kKeys / 16; k++) {
    uint32_t p[kRowTiles][4];
    LANNER_UNROLL for (int r = 0; r < kRowTiles; r++) {
      LANNER_UNROLL for (int i = 0; i < 4; i++) {
        const int n = 2 * k + i / 2, h = i % 2;
        const float x = exp2_approx(s[r][n][2 * h] * scale - sums.maximum[r][h]);
        const float y = exp2_approx(s[r][n][2 * h + 1] * scale - sums.maximum[r][h]);
        sums.sum[r][h] += x + y;
        p[r][i] = pack_bf16(x, y);
      }
    }
    LANNER_UNROLL for (int d = 0; d < D / 16; d++) {
      uint32_t b[4];
      load_matrices_transposed(b, values + (lane_offset ^ (d << 5)) + k * 32 * D);
      LANNER_UNROLL for (int r = 0; r < kRowTiles; r++) {
        mma_pair(sums.o[r][2 * d], sums.o[r][2 * d + 1], p[r], b);
      }
    }
  }
}

}  // namespace lanner::cuda
