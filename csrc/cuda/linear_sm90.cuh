// out[T, N] = x[T, K] W^T by the matrix instructions of sm_90a, which read both operands from shared memory.
//
// A tile is 128 tokens by 256 weight rows: two warpgroups of 64 tokens each, which hold 64 x 256 accumulators
// (128 registers a thread), so that a byte of shared memory is used most often: 3 bytes are brought in for
// 128 multiplications. A third warpgroup, of which one thread works, fills a ring of 4 stages of 64 k (48 KB
// each, 192 of 227 KB) and gives its registers to the others. Blocks stay: one on each multiprocessor takes
// tiles in turn, and the ring runs on from one tile into the next.
#include "cuda/device_sm90.h"
#include "cuda/linear_results.h"
#include "cuda/linear_sm90.h"
#include "cuda/runtime_sm90.h"
#include "cuda/tile_order.h"

namespace lanner::cuda {

// --- kernels ----------------------------------------------------------------------------------------------
namespace wgmma {
inline constexpr int kTokens = 128, kRows = 256, kStages = 4;
inline constexpr int kThreads = 3 * kWarpgroupThreads;
inline constexpr int kTokenBytes = kTokens * kTileColumns * 2, kRowBytes = kRows * kTileColumns * 2;
inline constexpr int kStageBytes = kTokenBytes + kRowBytes;
inline constexpr int kRingBytes = kStages * kStageBytes;
inline constexpr int kConsumerWarps = 8;
using WarpResults = Results<16, 64, 1>;
inline constexpr int kResultBytes = kConsumerWarps * WarpResults::kBytes;
inline constexpr int kSharedBytes =
    kRingBytes + kResultBytes + 2 * kStages * static_cast<int>(sizeof(Barrier));
// 65536 registers are 168 for each of 384 threads; 24 + 2 * 240 are as many.
inline constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;
}  // namespace wgmma

// Where in the ring a warpgroup is, and the parity of the barriers on this way round it.
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;
  LANNER_DEVICE void advance() {
    if (++stage == wgmma::kStages) stage = 0, parity ^= 1;
  }
};

struct Ring {
  char* tiles = shared_memory<char>();
  char* results = tiles + wgmma::kRingBytes;
  Barrier* full = reinterpret_cast<Barrier*>(results + wgmma::kResultBytes);
  Barrier* empty = full + wgmma::kStages;
  LANNER_DEVICE char* tokens(int stage) const { return tiles + stage * wgmma::kStageBytes; }
  LANNER_DEVICE char* rows(int stage) const { return tokens(stage) + wgmma::kTokenBytes; }
};

// The sums of a warp: 16 tokens by 256 weight rows, 64 rows at a time.
LANNER_DEVICE void store_sums(const LinearArgs& args, const float (&d)[128],
                              const wgmma::WarpResults& results, int row0, int token0, int n_tokens) {
  const int token = lane_index() / 4, pair = lane_index() % 4 * 2;
  LANNER_UNROLL
  for (int part = 0; part < 4; ++part) {
    sync_warp();
    LANNER_UNROLL
    for (int j = 0; j < 8; ++j) {
      LANNER_UNROLL
      for (int half = 0; half < 2; ++half) {
        const float* sums = d + 4 * (part * 8 + j) + 2 * half;
        *reinterpret_cast<Float2*>(results.at(token + 8 * half, j * 8 + pair)) = {sums[0], sums[1]};
      }
    }
    sync_warp();
    results.store(args, row0 + part * 64, token0, n_tokens);
  }
}

LANNER_DEVICE void produce(const Ring& ring, const TensorMap* x, const TensorMap* w, int n_token_tiles,
                           int n_row_tiles, int n_steps) {
  using namespace wgmma;
  RingPlace place;
  for (int i = block_x(); i < n_token_tiles * n_row_tiles; i += grid_x()) {
    const Tile tile = tile_of(i, n_token_tiles, n_row_tiles);
    for (int step = 0; step < n_steps; ++step, place.advance()) {
      Barrier* full = ring.full + place.stage;
      barrier_wait(ring.empty + place.stage, place.parity ^ 1);
      barrier_arrive_expect(full, kStageBytes);
      load_tile(ring.tokens(place.stage), x, full, tile.token * kTokens, step * kTileColumns);
      load_tile(ring.rows(place.stage), w, full, tile.row * kRows, step * kTileColumns);
    }
  }
}

LANNER_DEVICE void consume(const Ring& ring, const LinearArgs& args, int n_token_tiles, int n_row_tiles,
                           int n_steps, int n_tokens) {
  using namespace wgmma;
  const int warp = warp_index() - kWarpgroupThreads / kWarpSize, group = warp / 4;
  const WarpResults results(ring.results + warp * WarpResults::kBytes);
  const bool releases = lane_index() == 0;
  RingPlace place;
  float d[128];
  for (int i = block_x(); i < n_token_tiles * n_row_tiles; i += grid_x()) {
    const Tile tile = tile_of(i, n_token_tiles, n_row_tiles);
    int previous = 0;
    for (int step = 0; step < n_steps; ++step, place.advance()) {
      barrier_wait(ring.full + place.stage, place.parity);
      const uint64_t a = make_descriptor(ring.tokens(place.stage) + group * kTokenBytes / 2);
      const uint64_t b = make_descriptor(ring.rows(place.stage));
      wgmma_fence();
      LANNER_UNROLL
      for (int k = 0; k < kTileColumns; k += 16)
        wgmma_bf16(d, advance_descriptor(a, k), advance_descriptor(b, k), step > 0 || k > 0);
      wgmma_commit();
      wgmma_wait<1>();  // those of the step before
      if (releases && step > 0) barrier_arrive(ring.empty + previous);
      previous = place.stage;
    }
    wgmma_wait<0>();
    if (releases) barrier_arrive(ring.empty + previous);
    store_sums(args, d, results, tile.row * kRows, tile.token * kTokens + warp * 16, n_tokens);
  }
}

LANNER_KERNEL(wgmma::kThreads, 1)
linear_sm90_kernel(LANNER_GRID_CONSTANT const TensorMap x, LANNER_GRID_CONSTANT const TensorMap w,
                   LinearArgs args) {
#if LANNER_HAS_SM90A
  using namespace wgmma;
  const Ring ring;
  if (thread_index() == 0) {
    for (int s = 0; s < kStages; ++s) {
      barrier_init(ring.full + s, 1);
      barrier_init(ring.empty + s, kConsumerWarps);
    }
    fence_barrier_init();
  }
  sync_block();
  const int n_tokens = *args.rows.n;
  const int n_token_tiles = ceil_div(n_tokens, kTokens), n_row_tiles = ceil_div(args.weight.n, kRows);
  const int n_steps = args.weight.k / kTileColumns;
  if (warp_index() < kWarpgroupThreads / kWarpSize) {
    give_registers<kProducerRegisters>();
    if (thread_index() == 0) produce(ring, &x, &w, n_token_tiles, n_row_tiles, n_steps);
  } else {
    take_registers<kConsumerRegisters>();
    consume(ring, args, n_token_tiles, n_row_tiles, n_steps, n_tokens);
  }
#endif
}

// --- launchers --------------------------------------------------------------------------------------------
namespace {
int count_tiles(const LinearArgs& args, const Bounds& bounds) {
  return ceil_div(args.rows.bound(bounds), wgmma::kTokens) * ceil_div(args.weight.n, wgmma::kRows);
}
}  // namespace

bool sm90_is_faster(const LinearArgs& args, const Bounds& bounds) {
  return args.rows.bound(bounds) > wgmma::kTokens / 2 &&
         3 * count_tiles(args, bounds) >= 2 * device_info().n_sms;
}

void linear_sm90(const LinearArgs& args, const Bounds& bounds) {
  using namespace wgmma;
  check_present("linear", "plain", args.plain);
  check(args.norm_weight == nullptr, "linear_sm90: norm_weight is given, rms_norm is to norm before");
  const Weight& w = args.weight;
  const TensorMap x = make_tensor_map(args.x, args.rows.bound(bounds), w.k, kTokens);
  const TensorMap plain = make_tensor_map(args.plain, w.n, w.k, kRows);
  const int n_tiles = count_tiles(args, bounds), n_sms = device_info().n_sms;
  launch(linear_sm90_kernel, {{n_tiles < n_sms ? n_tiles : n_sms}, kThreads, kSharedBytes}, bounds.stream, x,
         plain, args);
}

}  // namespace lanner::cuda
