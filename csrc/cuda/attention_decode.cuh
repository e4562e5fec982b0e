#include <algorithm>

#include "cuda/attention_tile.h"

namespace lanner::cuda {

// --- kernels ----------------------------------------------------------------------------------------------
// A block has one sequence, one KV head with up to 16 of its query heads, and a range of the pages: a split.
// The query heads are the rows of the tensor core's tile, so keys and values are read once for all of them.
// Sixteen keys of 128 are 8 KB and about 130 instructions of a warp, 32 of them products on rows that are
// mostly padding, while memory brings 8 KB to a multiprocessor of A100 in 610 cycles, which have 2,440 issue
// slots: padding costs nothing. CUDA cores would need 1,024 fused multiply-adds and 256 conversions a key for
// a group of 4, two thirds of the slots.
//
// Each warp goes over units of 16 keys of its own, through a ring of its own, without barriers. Its sums are
// merged with those of the other warps, then with those of the other splits by the last block that ends, both
// in ascending order: results repeat exactly.
inline constexpr int kDecodeRows = 16;  // query heads at most
inline constexpr int kUnitKeys = 16;
inline constexpr int kMinSplitPages = 4;             // two units a warp: all on their way at once
inline constexpr int kMaxSplits = 64;                // two of them a lane when they are merged
inline constexpr int kShareStride = kMaxSplits + 1;  // two rows lie in different banks

template <int D>
struct DecodeShape {
  static constexpr int kWarps = D == 256 ? 2 : 4;
  static constexpr int kThreads = kWarps * kWarpSize;
  static constexpr int kStages = D == 64 ? 4 : 2;
  static constexpr int kHalfBytes = kUnitKeys * D * 2;  // the keys of a unit, or its values
  static constexpr int kWarpBytes = kStages * 2 * kHalfBytes;
  static constexpr int kSharedBytes = kWarps * kWarpBytes;  // 64 KB
  // Rows of sums in shared memory: two rows of a quarter warp's float2 lie in different banks.
  static constexpr int kSumStride = D + 8;
  static constexpr int kSumBytes = kDecodeRows * (kSumStride + 2) * 4;  // of a warp, with its (m, l)
  static_assert(kSumBytes <= kWarpBytes);
};

// Query heads in one block, and blocks of a KV head.
LANNER_BOTH int decode_rows(const AttentionArgs& args) {
  return args.group_heads() < kDecodeRows ? args.group_heads() : kDecodeRows;
}
LANNER_BOTH int decode_chunks(const AttentionArgs& args) { return ceil_div(args.group_heads(), kDecodeRows); }

// Which keys a block has, and what it is among the blocks of its sequence.
struct SplitPlace {
  int first_key, end_key;  // of the split
  int n_splits;            // that have keys
};
LANNER_DEVICE SplitPlace split_place(int first_seen, int kv_len, int split, int most_splits) {
  const int first_page = first_seen / kPagePositions;
  const int n_pages = ceil_div(kv_len, kPagePositions) - first_page;
  const int share = ceil_div(n_pages, most_splits);
  const int split_pages = share < kMinSplitPages ? kMinSplitPages : share;
  const int first_key = (first_page + split * split_pages) * kPagePositions;
  const int end_key = first_key + split_pages * kPagePositions;
  return {first_key, end_key < kv_len ? end_key : kv_len, ceil_div(n_pages, split_pages)};
}

// What blocks leave in the workspace: (blocks, rows, D) float32 sums, then (blocks, rows) of 16 bytes: the
// maximum, in log2 of a weight, and the sum of weights. The splits of a sequence and head follow each other.
template <int D>
struct Partials {
  float* o;
  Float4* stats;
  int rows;
  LANNER_DEVICE float* sums(int block, int row) const { return o + (int64_t{block} * rows + row) * D; }
  LANNER_DEVICE Float4* stat(int block, int row) const { return stats + int64_t{block} * rows + row; }
};
template <int D>
LANNER_DEVICE Partials<D> partials(const AttentionArgs& args) {
  const int rows = decode_rows(args);
  const int64_t n_blocks = int64_t{grid_x()} * grid_y() * grid_z();
  return {args.workspace, reinterpret_cast<Float4*>(args.workspace + n_blocks * rows * D), rows};
}
inline constexpr int kStatFloats = 4;

// Four columns of a row of the result.
LANNER_DEVICE void store_columns(bf16* to, const float (&x)[4], float factor) {
  const uint64_t low = pack_bf16(x[0] * factor, x[1] * factor),
                 high = pack_bf16(x[2] * factor, x[3] * factor);
  *reinterpret_cast<uint64_t*>(to) = high << 32 | low;  // as one
}

// The query heads of the block as operand a; zeros past n_rows.
template <int D>
LANNER_DEVICE void load_heads(uint32_t (&q)[D / 16][1][4], const bf16* first, int n_rows) {
  const int row = lane_index() / 4, column = 2 * (lane_index() % 4);
  LANNER_UNROLL for (int k = 0; k < D / 16; k++) {
    LANNER_UNROLL for (int i = 0; i < 4; i++) {
      const int r = row + 8 * (i % 2);
      q[k][0][i] =
          r < n_rows ? *reinterpret_cast<const uint32_t*>(first + r * D + 16 * k + 8 * (i / 2) + column) : 0;
    }
  }
}

// Sixteen keys or values of a page, `from` this lane's first 16 bytes; zeros past n_keys.
template <int D>
LANNER_DEVICE void copy_half(std::byte* to, const std::byte* from, int n_keys) {
  constexpr int kRowsAtOnce = kWarpSize * 16 / (2 * D);
  const int row = lane_index() / (D / 8);
  const uint32_t offset = tile_offset<D>(row, lane_index() % (D / 8));
  LANNER_UNROLL for (int i = 0; i < kUnitKeys / kRowsAtOnce; i++) {
    std::byte* const at = to + (offset ^ ((i * kRowsAtOnce & 7) << 4)) + i * kWarpSize * 16;
    copy_async16(at, from + i * kWarpSize * 16, row + i * kRowsAtOnce < n_keys);
  }
}

// Sums and (m, l) of a warp, to shared memory.
template <int D>
LANNER_DEVICE void store_sums(float* to, const AttentionSums<D, 1>& sums, int n_rows) {
  constexpr int kStride = DecodeShape<D>::kSumStride;
  Float2* stats = reinterpret_cast<Float2*>(to + kDecodeRows * kStride);
  LANNER_UNROLL for (int h = 0; h < 2; h++) {
    const int row = lane_index() / 4 + 8 * h;
    const float sum = sum_of_quad(sums.sum[0][h]);
    if (row >= n_rows) continue;
    LANNER_UNROLL for (int d = 0; d < D / 8; d++) *
        reinterpret_cast<Float2*>(to + row * kStride + 8 * d + 2 * (lane_index() % 4)) = {
        sums.o[0][d][2 * h], sums.o[0][d][2 * h + 1]};
    if (lane_index() % 4 == 0) stats[row] = {sums.maximum[0][h], sum};
  }
}

// Merges the warps' sums of 4 columns of a row, in ascending order.
template <int D>
LANNER_DEVICE Float2 merge_warps(float (&x)[4], const std::byte* shared, int row, int column) {
  using Shape = DecodeShape<D>;
  float maximum = -INFINITY, sum = 0;
  const auto of_warp = [&](int w) { return reinterpret_cast<const float*>(shared + w * Shape::kWarpBytes); };
  const auto stat = [&](int w) {
    return reinterpret_cast<const Float2*>(of_warp(w) + kDecodeRows * Shape::kSumStride)[row];
  };
  LANNER_UNROLL for (int w = 0; w < Shape::kWarps; w++) maximum = fmaxf(maximum, stat(w).x);
  LANNER_UNROLL for (int i = 0; i < 4; i++) x[i] = 0;
  LANNER_UNROLL for (int w = 0; w < Shape::kWarps; w++) {
    const float weight = exp2_approx(stat(w).x - maximum);
    const Float4 o = *reinterpret_cast<const Float4*>(of_warp(w) + row * Shape::kSumStride + column);
    x[0] += o.x * weight, x[1] += o.y * weight, x[2] += o.z * weight, x[3] += o.w * weight;
    sum += stat(w).y * weight;
  }
  return {maximum, sum};
}

// The splits' shares of each row's result, in shared memory: (rows, kShareStride).
template <int D>
LANNER_DEVICE void weigh_splits(float* shares, const Partials<D>& p, int first_block, int n_splits,
                                int n_rows) {
  const int lane = lane_index();
  for (int row = warp_index(); row < n_rows; row += DecodeShape<D>::kWarps) {
    float maximum[2], sum[2], total = 0;
    LANNER_UNROLL for (int i = 0; i < 2; i++) {
      const int split = lane + i * kWarpSize;
      maximum[i] = -INFINITY, sum[i] = 0;
      if (split >= n_splits) continue;
      const Bytes16 stat = load16_volatile(p.stat(first_block + split, row));
      maximum[i] = float_of(stat.x), sum[i] = float_of(stat.y);
    }
    float most = fmaxf(maximum[0], maximum[1]);
    LANNER_UNROLL for (int m = 1; m < kWarpSize; m *= 2) most = fmaxf(most, shuffle_xor(most, m));
    LANNER_UNROLL for (int i = 0; i < 2; i++) {
      maximum[i] = exp2_approx(maximum[i] - most);
      total += maximum[i] * sum[i];
    }
    LANNER_UNROLL for (int m = 1; m < kWarpSize; m *= 2) total += shuffle_xor(total, m);
    const float over_total = rcp_approx(total);
    LANNER_UNROLL for (int i = 0; i < 2; i++) shares[row * kShareStride + lane + i * kWarpSize] =
        maximum[i] * over_total;
  }
}

// Sums 4 columns of a row over the splits, in ascending order, kAtOnce of them on their way together.
template <int D>
LANNER_DEVICE void merge_splits(float (&x)[4], const float* shares, const Partials<D>& p, int first_block,
                                int n_splits, int row, int column) {
  constexpr int kAtOnce = 8;
  LANNER_UNROLL for (int i = 0; i < 4; i++) x[i] = 0;
  for (int first = 0; first < n_splits; first += kAtOnce) {
    Bytes16 o[kAtOnce];
    LANNER_UNROLL for (int i = 0; i < kAtOnce; i++) {
      const int split = first + i < n_splits ? first + i : n_splits - 1;
      o[i] = load16_volatile(p.sums(first_block + split, row) + column);
    }
    LANNER_UNROLL for (int i = 0; i < kAtOnce; i++) {
      if (first + i >= n_splits) break;
      const float share = shares[row * kShareStride + first + i];
      x[0] += float_of(o[i].x) * share, x[1] += float_of(o[i].y) * share;
      x[2] += float_of(o[i].z) * share, x[3] += float_of(o[i].w) * share;
    }
  }
}

template <int D>
LANNER_KERNEL(DecodeShape<D>::kThreads, 1)
attention_decode_kernel(AttentionArgs args) {
  using Shape = DecodeShape<D>;
  constexpr int kItems = D / 4;  // of a row, 4 columns each
  wait_for_kernel_ahead();
  const int seq = block_z(), split = block_y();
  if (seq >= args.counts->n_seqs) return;
  const int kv_len = args.kv_lens[seq];
  const int first_seen = args.window > 0 && args.window < kv_len ? kv_len - args.window : 0;
  const SplitPlace place = split_place(first_seen, kv_len, split, grid_y());
  if (split >= place.n_splits) return;

  const int chunks = decode_chunks(args), kv_head = block_x() / chunks, chunk = block_x() % chunks;
  const int rows_left = args.group_heads() - chunk * kDecodeRows;
  const int n_rows = rows_left < kDecodeRows ? rows_left : kDecodeRows;
  const int first_head = kv_head * args.group_heads() + chunk * kDecodeRows;
  const int lane = lane_index(), warp = warp_index();
  std::byte* const shared = shared_memory<std::byte>();
  std::byte* const ring = shared + warp * Shape::kWarpBytes;

  const int32_t* table = args.block_tables + int64_t{seq} * args.max_pages;
  const int kv_bytes = kPagePositions * D * 2;  // the K or V of a head in a page
  const std::byte* keys = reinterpret_cast<const std::byte*>(args.cache) + kv_head * kv_bytes + lane * 16;
  const int values = args.n_kv_heads * kv_bytes;
  const auto key_of = [&](int unit) { return place.first_key + (unit * Shape::kWarps + warp) * kUnitKeys; };
  const auto read_table = [&](int unit) {
    return key_of(unit) < place.end_key ? table[key_of(unit) / kPagePositions] : 0;
  };
  const auto copy = [&](int unit, int page) {
    const int key = key_of(unit);
    if (key < place.end_key) {
      std::byte* const to = ring + unit % Shape::kStages * 2 * Shape::kHalfBytes;
      const std::byte* from = keys + int64_t{page} * args.page_bytes + key % kPagePositions * 2 * D;
      copy_half<D>(to, from, kv_len - key);
      copy_half<D>(to + Shape::kHalfBytes, from + values, kv_len - key);
    }
    copy_async_commit();
  };
  int first_pages[Shape::kStages + 1];
  LANNER_UNROLL for (int i = 0; i <= Shape::kStages; i++) first_pages[i] = read_table(i);
  LANNER_UNROLL for (int i = 0; i < Shape::kStages; i++) copy(i, first_pages[i]);
  int next_page = first_pages[Shape::kStages];

  uint32_t q[D / 16][1][4];
  load_heads<D>(q, args.q + int64_t{seq} * args.q_stride + first_head * D, n_rows);
  const auto query = [&](uint32_t (&to)[1][4], int k) {
    LANNER_UNROLL for (int i = 0; i < 4; i++) to[0][i] = q[k][0][i];
  };
  const bool caps = args.softcap > 0;
  const float scale = caps ? 1.0f : args.scale * kLog2E;  // from scores to log2 of weights
  const auto end = [&](int) { return kv_len; };
  const uint32_t row_offset = lane_offset_rows<D>(lane), key_offset = lane_offset_keys<D>(lane);
  AttentionSums<D, 1> sums;
  sums.clear();
  for (int unit = 0; key_of(unit) < place.end_key; unit++) {
    copy_async_wait<Shape::kStages - 1>();
    sync_warp();
    const std::byte* const k_tile = ring + unit % Shape::kStages * 2 * Shape::kHalfBytes;
    const int key = key_of(unit);
    Scores<kUnitKeys, 1> s;
    score_keys<D, kUnitKeys, 1>(s, k_tile, key_offset, query);
    if (caps) cap_scores<kUnitKeys, 1>(s, args.scale, args.softcap);
    if (key + kUnitKeys > kv_len || key < first_seen)
      mask_scores<kUnitKeys, 1>(s, end, kv_len - first_seen, key + 2 * (lane % 4));
    raise_maxima<D, kUnitKeys, 1>(sums, s, scale);
    add_values<D, kUnitKeys, 1>(sums, s, scale, k_tile + Shape::kHalfBytes, row_offset);
    sync_warp();  // all lanes are done with the unit
    copy(unit + Shape::kStages, next_page);
    next_page = read_table(unit + Shape::kStages + 1);
  }
  let_next_kernel_begin();

  store_sums<D>(reinterpret_cast<float*>(ring), sums, n_rows);
  sync_block();
  const Partials<D> p = partials<D>(args);
  const int head_block = seq * grid_x() + block_x(), first_block = head_block * grid_y();
  bf16* const out = args.out + (int64_t{seq} * args.n_heads + first_head) * D;
  for (int i = thread_index(); i < n_rows * kItems; i += Shape::kThreads) {
    const int row = i / kItems, column = i % kItems * 4;
    float x[4];
    const Float2 stat = merge_warps<D>(x, shared, row, column);
    if (place.n_splits == 1) {
      store_columns(out + row * D + column, x, rcp_approx(stat.y));
      continue;
    }
    *reinterpret_cast<Float4*>(p.sums(first_block + split, row) + column) = {x[0], x[1], x[2], x[3]};
    if (column == 0) *p.stat(first_block + split, row) = {stat.x, stat.y, 0, 0};
  }
  if (place.n_splits == 1) return;

  // The last block of the sequence and head merges what all have left.
  sync_block();
  int32_t* const ticket = shared_memory<int32_t>();  // over sums that all have read
  if (thread_index() == 0) {
    fence_device();
    *ticket = atomic_add(args.counters + head_block, 1);
    fence_device();
  }
  sync_block();
  if (*ticket != place.n_splits - 1) return;
  if (thread_index() == 0) args.counters[head_block] = 0;
  float* const shares = shared_memory<float>() + 4;
  weigh_splits<D>(shares, p, first_block, place.n_splits, n_rows);
  sync_block();
  for (int i = thread_index(); i < n_rows * kItems; i += Shape::kThreads) {
    const int row = i / kItems, column = i % kItems * 4;
    float x[4];
    merge_splits<D>(x, shares, p, first_block, place.n_splits, row, column);
    store_columns(out + row * D + column, x, 1);
  }
}

// --- launchers --------------------------------------------------------------------------------------------
namespace {

template <int D>
Grid decode_grid(const AttentionArgs& args, const Bounds& bounds) {
  using Shape = DecodeShape<D>;
  const auto kernel = reinterpret_cast<const void*>(&attention_decode_kernel<D>);
  const int at_once = device_info().n_sms * blocks_per_sm(kernel, Shape::kThreads, Shape::kSharedBytes);
  const int n_heads = args.n_kv_heads * decode_chunks(args), n_blocks = n_heads * bounds.n_seqs;
  const int n_keys = bounds.n_keys > 0 ? bounds.n_keys : args.max_pages * kPagePositions;
  int most = ceil_div(ceil_div(n_keys, kPagePositions), kMinSplitPages);
  most = std::min(most, kMaxSplits);
  // Blocks run in waves of at_once. The time of n splits is waves / n; the fewest splits within 15 % of the
  // best, as every split adds to what the last block merges.
  const auto time = [&](int n) { return static_cast<double>(ceil_div(n_blocks * n, at_once)) / n; };
  double best = time(1);
  for (int n = 2; n <= most; n++) best = std::min(best, time(n));
  int n_splits = 1;
  while (time(n_splits) > 1.15 * best) n_splits++;
  return {n_heads, n_splits, bounds.n_seqs};
}

template <int D>
AttentionWorkspace decode_workspace(const AttentionArgs& args, const Bounds& bounds) {
  const Grid grid = decode_grid<D>(args, bounds);
  const int64_t rows = int64_t{grid.x} * grid.y * grid.z * decode_rows(args);
  return {grid.y == 1 ? 0 : rows * (D + kStatFloats) * 4, grid.y == 1 ? 0 : grid.x * grid.z};
}

template <int D>
void launch_decode(const AttentionArgs& args, const Bounds& bounds) {
  const AttentionWorkspace needed = decode_workspace<D>(args, bounds);
  check(args.workspace_bytes >= needed.n_bytes, "attention_decode: workspace has ", args.workspace_bytes,
        " bytes, wanted ", needed.n_bytes);
  check(args.n_counters >= needed.n_counters, "attention_decode: there are ", args.n_counters,
        " counters, wanted ", needed.n_counters);
  using Shape = DecodeShape<D>;
  launch(attention_decode_kernel<D>,
         {decode_grid<D>(args, bounds), Shape::kThreads, Shape::kSharedBytes, true}, bounds.stream, args);
}

}  // namespace

AttentionWorkspace attention_workspace(const AttentionArgs& args, const Bounds& bounds) {
  if (args.head_dim == 64) return decode_workspace<64>(args, bounds);
  if (args.head_dim == 128) return decode_workspace<128>(args, bounds);
  return decode_workspace<256>(args, bounds);
}

void attention_decode(const AttentionArgs& args, const Bounds& bounds) {
  if (args.head_dim == 64) launch_decode<64>(args, bounds);
  if (args.head_dim == 128) launch_decode<128>(args, bounds);
  if (args.head_dim == 256) launch_decode<256>(args, bounds);
}

}  // namespace lanner::cuda
