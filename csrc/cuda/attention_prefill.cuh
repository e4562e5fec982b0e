#include "cuda/attention_tile.h"

namespace lanner::cuda {

// --- kernels ----------------------------------------------------------------------------------------------
// FlashAttention-2 (Dao, 2023) over pages. The rows of a sequence and KV head are its (token, head of the
// group) pairs, so that keys and values are read once for a group however few tokens there are, and few tiles
// lie on the diagonal. A block has 64 or 128 of these rows, a warp 16 or 32, and goes over tiles of keys that
// are counted from position 0: so the bits of a row do not depend on how its prompt was cut.
//
// Tiles of keys and values take turns in a ring of three: while the scores of tile j are made, the values of
// j and then the keys of j + 1 are on their way.
inline constexpr int kPrefillThreads = 128;
inline constexpr int kPassBytes = kPrefillThreads * 16;  // that a block copies at once

template <int D, int kRowTiles>
struct PrefillShape {
  static constexpr int kRows = 64 * kRowTiles;
  static constexpr int kKeys = D == 256 ? 32 : 64;  // sums of 256 columns leave room for 16 scores a lane
  static constexpr int kTileBytes = kKeys * D * 2;
  static constexpr int kQueryBytes = kRows * D * 2;
  static constexpr bool kQueryInRegisters = kRowTiles * D <= 128;  // at most 32 of them
  // A query that goes to registers comes through the last two tiles of the ring.
  static constexpr int kQueryOffset = kQueryInRegisters ? kTileBytes : 3 * kTileBytes;
  static constexpr int kEndsOffset = 3 * kTileBytes + (kQueryInRegisters ? 0 : kQueryBytes);
  static constexpr int kSharedBytes = kEndsOffset + kRows * 4;
};

// Blocks of a sequence: a fixed range of them, by a bound that needs no sum over the sequences before it.
LANNER_DEVICE int first_query_tile(const AttentionArgs& args, int seq, int rows) {
  return static_cast<int>(int64_t{args.seq_starts[seq]} * args.group_heads() / rows) + seq;
}

// The sequence whose range has the tile; n_seqs if none.
LANNER_DEVICE int sequence_of_tile(const AttentionArgs& args, int tile, int rows) {
  const int n_seqs = args.counts->n_seqs;
  int n_before = 0;
  for (int first = 0; first < n_seqs; first += kWarpSize) {
    const int seq = first + lane_index();
    uint32_t before = ballot(seq < n_seqs && first_query_tile(args, seq + 1, rows) <= tile);
    for (; before != 0; before >>= 1) n_before++;  // the sequences before it come first
  }
  return n_before;
}

// Copies the K or V of kKeys positions in `pages`, in each of which this thread's first 16 bytes are at
// `from`. Zeros stand for positions past n_keys and for pages given back: a weight of zero times what a page
// was left with need not be zero.
template <int D, int kKeys>
LANNER_DEVICE void copy_tile(std::byte* tile, const AttentionArgs& args, int from,
                             const int (&pages)[kKeys / kPagePositions], int n_keys) {
  constexpr int kRowsAtOnce = kPassBytes / (2 * D);
  constexpr int kPasses = kPagePositions / kRowsAtOnce;  // of a page
  const int row = thread_index() / (D / 8);
  const uint32_t offset = tile_offset<D>(row, thread_index() % (D / 8));
  bool whole = n_keys >= kKeys;
  LANNER_UNROLL for (int i = 0; i < kKeys / kPagePositions; i++) whole = whole && pages[i] >= 0;
  const auto to = [&](int pass) {
    return tile + (offset ^ ((pass * kRowsAtOnce & 7) << 4)) + pass * kPassBytes;
  };
  LANNER_UNROLL for (int i = 0; i < kKeys / kPagePositions; i++) {
    const std::byte* page = reinterpret_cast<const std::byte*>(args.cache) +
                            int64_t{pages[i] < 0 ? 0 : pages[i]} * args.page_bytes + from;
    if (whole) {
      LANNER_UNROLL for (int j = 0; j < kPasses; j++)
          copy_async16(to(i * kPasses + j), page + j * kPassBytes);
    } else {
      LANNER_UNROLL for (int j = 0; j < kPasses; j++) {
        const int pass = i * kPasses + j;
        copy_async16(to(pass), page + j * kPassBytes, pages[i] >= 0 && row + pass * kRowsAtOnce < n_keys);
      }
    }
  }
}

// Element offsets of a row: of its head in q, and in out.
struct RowPlace {
  int64_t q, out;
};
LANNER_DEVICE RowPlace row_place(const AttentionArgs& args, int first_token, int kv_head, int row) {
  const int group = args.group_heads();
  const int64_t token = first_token + row / group;
  const int column = (kv_head * group + row % group) * args.head_dim;
  return {token * args.q_stride + column, token * args.n_heads * args.head_dim + column};
}

// Rows `first` and on of the query, zeros past n_rows.
template <int D, int kRows>
LANNER_DEVICE void copy_query(std::byte* tile, const AttentionArgs& args, int first_token, int kv_head,
                              int first, int n_rows) {
  constexpr int kChunks = D / 8;
  const int chunk = thread_index() % kChunks;
  for (int row = thread_index() / kChunks; row < kRows; row += kPrefillThreads / kChunks) {
    const bool valid = first + row < n_rows;
    const int64_t at = row_place(args, first_token, kv_head, valid ? first + row : first).q;
    copy_async16(tile + tile_offset<D>(row, chunk), args.q + at + chunk * 8, valid);
  }
}

// The 16 rows of each row tile of this warp, from registers to `tile`, and from there in rows of 16 bytes a
// lane.
template <int D, int kRowTiles>
LANNER_DEVICE void store_rows(const AttentionArgs& args, const AttentionSums<D, kRowTiles>& sums,
                              std::byte* tile, int first_token, int kv_head, int first, int n_rows) {
  constexpr int kChunks = D / 8;
  const int lane = lane_index();
  LANNER_UNROLL for (int r = 0; r < kRowTiles; r++) {
    LANNER_UNROLL for (int h = 0; h < 2; h++) {
      const float over_sum = rcp_approx(sum_of_quad(sums.sum[r][h]));
      const int row = 16 * r + 8 * h + lane / 4;
      LANNER_UNROLL for (int d = 0; d < kChunks; d++) {
        const uint32_t pair = pack_bf16(sums.o[r][d][2 * h] * over_sum, sums.o[r][d][2 * h + 1] * over_sum);
        *reinterpret_cast<uint32_t*>(tile + tile_offset<D>(row, d) + 4 * (lane % 4)) = pair;
      }
    }
  }
  sync_warp();
  for (int row = lane / kChunks; row < 16 * kRowTiles; row += kWarpSize / kChunks) {
    if (first + row >= n_rows) break;
    const int64_t at = row_place(args, first_token, kv_head, first + row).out;
    store16(args.out + at + lane % kChunks * 8, load16(tile + tile_offset<D>(row, lane % kChunks)));
  }
}

template <int D, int kRowTiles>
LANNER_KERNEL(kPrefillThreads, 2)
attention_prefill_kernel(AttentionArgs args) {
  using Shape = PrefillShape<D, kRowTiles>;
  constexpr int kKeys = Shape::kKeys, kPages = kKeys / kPagePositions;
  wait_for_kernel_ahead();

  // The last tiles see the most keys: they begin first.
  const int kv_head = block_x(), query_tile = grid_y() - 1 - block_y();
  const int seq = sequence_of_tile(args, query_tile, Shape::kRows);
  if (seq >= args.counts->n_seqs) return;
  const int group = args.group_heads();
  const int first_token = args.seq_starts[seq], n_tokens = args.seq_starts[seq + 1] - first_token;
  const int first_row = (query_tile - first_query_tile(args, seq, Shape::kRows)) * Shape::kRows;
  const int n_rows = n_tokens * group;
  if (first_row >= n_rows) return;

  const int kv_len = args.kv_lens[seq];
  const int window = args.window > 0 ? args.window : 0x7fffffff;
  const auto end_of = [&](int row) {  // the keys that a row sees lie before it
    return args.causal ? kv_len - n_tokens + 1 + (row < n_rows ? row : n_rows - 1) / group : kv_len;
  };
  const int warp_row = first_row + warp_index() * 16 * kRowTiles, lane = lane_index();
  std::byte* const ring = shared_memory<std::byte>();
  // The warp's rows' ends: there is no register for what few tiles need.
  int* const ends = reinterpret_cast<int*>(ring + Shape::kEndsOffset) + warp_index() * 16 * kRowTiles;
  if (lane < 16 * kRowTiles) ends[lane] = end_of(warp_row + lane);
  const int first_seen = end_of(first_row) - window;
  const int first_tile = first_seen > 0 ? first_seen / kKeys : 0;
  const int end_tile = ceil_div(end_of(first_row + Shape::kRows - 1), kKeys);

  const int first_page = seq * args.max_pages;
  int pages[kPages];  // of the tile to be copied next
  const auto read_table = [&](int tile) {
    LANNER_UNROLL for (int i = 0; i < kPages; i++) {
      const int page = tile * kPages + i;
      pages[i] = page * kPagePositions < kv_len ? args.block_tables[first_page + page] : -1;
    }
  };
  const int kv_bytes = kPagePositions * D * 2;  // the K or V of a head in a page
  const int keys = kv_head * kv_bytes + thread_index() * 16, values = args.n_kv_heads * kv_bytes;

  int k_tile = 0, v_tile = Shape::kTileBytes, free_tile = 2 * Shape::kTileBytes;  // in the ring
  std::byte* const queries = ring + Shape::kQueryOffset;
  std::byte* const warp_queries = queries + warp_index() * 16 * kRowTiles * D * 2;
  const auto copy = [&](int to, int from, int tile) {
    copy_tile<D, kKeys>(ring + to, args, keys + from, pages, kv_len - tile * kKeys);
  };

  read_table(first_tile);
  copy_query<D, Shape::kRows>(queries, args, first_token, kv_head, first_row, n_rows);
  copy_async_commit();
  copy(k_tile, 0, first_tile);
  copy_async_commit();

  const uint32_t row_offset = lane_offset_rows<D>(lane), key_offset = lane_offset_keys<D>(lane);
  constexpr int kHeld = Shape::kQueryInRegisters ? D / 16 : 1;
  uint32_t held[kHeld][kRowTiles][4];
  const auto load_query = [&](uint32_t (&q)[kRowTiles][4], int k) {
    LANNER_UNROLL for (int r = 0; r < kRowTiles; r++)
        load_matrices(q[r], warp_queries + (row_offset ^ (k << 5)) + r * 32 * D);
  };
  const auto query = [&](uint32_t (&q)[kRowTiles][4], int k) {
    if constexpr (Shape::kQueryInRegisters) {
      LANNER_UNROLL for (int r = 0; r < kRowTiles; r++) {
        LANNER_UNROLL for (int i = 0; i < 4; i++) q[r][i] = held[k][r][i];
      }
    } else {
      load_query(q, k);
    }
  };
  if constexpr (Shape::kQueryInRegisters) {
    copy_async_wait<1>();
    sync_block();
    LANNER_UNROLL for (int k = 0; k < D / 16; k++) load_query(held[k], k);
    sync_block();  // all have read what the first values overwrite
  }
  copy(v_tile, values, first_tile);
  copy_async_commit();
  read_table(first_tile + 1);

  const bool caps = args.softcap > 0;
  const float scale = caps ? 1.0f : args.scale * kLog2E;  // from scores to log2 of weights
  AttentionSums<D, kRowTiles> sums;
  sums.clear();
  for (int tile = first_tile; tile < end_tile; tile++) {
    copy_async_wait<1>();  // the keys are there
    sync_block();          // for all; and all are done with the values of the tile before
    if (tile + 1 < end_tile) copy(free_tile, 0, tile + 1);
    copy_async_commit();

    Scores<kKeys, kRowTiles> s;
    score_keys<D, kKeys, kRowTiles>(s, ring + k_tile, key_offset, query);
    if (caps) cap_scores<kKeys, kRowTiles>(s, args.scale, args.softcap);
    const int key = tile * kKeys;
    if (key + kKeys > ends[0] || key < ends[16 * kRowTiles - 1] - window)
      mask_scores<kKeys, kRowTiles>(s, [&](int row) { return ends[row]; }, window, key + 2 * (lane % 4));
    raise_maxima<D, kKeys, kRowTiles>(sums, s, scale);

    copy_async_wait<1>();  // the values are there
    sync_block();          // for all; and all are done with the keys
    if (tile + 1 < end_tile) {
      copy(k_tile, values, tile + 1);
      read_table(tile + 2);
    }
    copy_async_commit();
    add_values<D, kKeys, kRowTiles>(sums, s, scale, ring + v_tile, row_offset);

    const int next_values = k_tile;
    k_tile = free_tile, free_tile = v_tile, v_tile = next_values;
  }
  let_next_kernel_begin();
  sync_block();  // all are done with the ring
  store_rows<D, kRowTiles>(args, sums, ring + warp_index() * 16 * kRowTiles * D * 2, first_token, kv_head,
                           warp_row, n_rows);
}

// --- launchers --------------------------------------------------------------------------------------------
namespace {

template <int D, int kRowTiles>
int prefill_blocks(const AttentionArgs& args, const Bounds& bounds) {
  const int64_t rows = int64_t{bounds.n_tokens} * args.group_heads();
  return static_cast<int>(ceil_div(static_cast<int>(rows), PrefillShape<D, kRowTiles>::kRows)) +
         bounds.n_seqs;
}

template <int D, int kRowTiles>
void launch_prefill(const AttentionArgs& args, const Bounds& bounds) {
  launch(attention_prefill_kernel<D, kRowTiles>,
         {{args.n_kv_heads, prefill_blocks<D, kRowTiles>(args, bounds)},
          kPrefillThreads,
          PrefillShape<D, kRowTiles>::kSharedBytes,
          true},
         bounds.stream, args);
}

// A warp of 32 rows reads keys and values from shared memory half as often for its products as one of 16,
// which A100 and H100 need: there shared memory is as fast as the tensor cores of 16 rows. It takes twice the
// shared memory: only where two blocks fit, and are there to fill the GPU.
template <int D>
void choose_prefill(const AttentionArgs& args, const Bounds& bounds) {
  using Large = PrefillShape<D, 2>;
  const int n_blocks = args.n_kv_heads * prefill_blocks<D, 2>(args, bounds);
  const auto kernel = reinterpret_cast<const void*>(&attention_prefill_kernel<D, 2>);
  if (n_blocks >= 2 * device_info().n_sms && blocks_per_sm(kernel, kPrefillThreads, Large::kSharedBytes) >= 2)
    launch_prefill<D, 2>(args, bounds);
  else
    launch_prefill<D, 1>(args, bounds);
}

}  // namespace

void attention_prefill(const AttentionArgs& args, const Bounds& bounds) {
  if (args.head_dim == 64) choose_prefill<64>(args, bounds);
  if (args.head_dim == 128) choose_prefill<128>(args, bounds);
  if (args.head_dim == 256) launch_prefill<256, 1>(args, bounds);
}

}  // namespace lanner::cuda
