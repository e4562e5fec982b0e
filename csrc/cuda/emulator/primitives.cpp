// The functions that cuda/emulator/device.h calls.
#include <bit>
#include <cstring>

#include "cuda/emulator/access.h"
#include "cuda/emulator/banks.h"
#include "cuda/emulator/block.h"
#include "cuda/emulator/memory.h"
#include "cuda/emulator/report.h"
#include "cuda/emulator/site.h"

namespace lanner::cuda::emulated {

int thread_index() { return block.running->index; }
int block_index(int axis) { return block.index[axis]; }
int grid_size(int axis) { return block.grid[axis]; }
int block_threads() { return block.n_threads; }
void* shared_memory() { return arena.shared; }

// --- memory ------------------------------------------------------------------------------------------
Bytes16 load16(const void* p) {
  check_access(p, 16, Access::read, 16, LANNER_SITE);
  count_lane(p, 16, LANNER_SITE);
  Bytes16 value;
  std::memcpy(&value, p, 16);
  return value;
}
void store16(void* p, Bytes16 value) {
  check_access(p, 16, Access::write, 16, LANNER_SITE);
  count_lane(p, 16, LANNER_SITE);
  std::memcpy(p, &value, 16);
}

// --- meeting
// ------------------------------------------------------------------------------------------------
void sync_block() { meet_at_barrier(0, block.n_threads, "sync_block", LANNER_SITE); }
void sync_threads(int id, int n_threads) {
  if (id < 1 || id >= kBarriers) block.fail(cat(block.kernel, ": sync_threads: barrier ", id, " of 1 to 15"));
  meet_at_barrier(id, n_threads, "sync_threads", LANNER_SITE);
}

void sync_warp() {
  static constexpr Collective sync = {"sync_warp", [](void* const*) {
                                        Thread* lanes[kWarpSize];
                                        Thread* first = block.running - block.lane();
                                        for (int l = 0; l < kWarpSize; ++l) lanes[l] = first + l;
                                        join_clocks(lanes, kWarpSize);
                                        for (Thread* t : lanes) block.wake(*t);
                                      }};
  meet(sync, nullptr, LANNER_SITE);
}

namespace {
struct Shuffle {
  uint32_t x;
  int lane;  // or mask, or distance
  uint32_t result;
};
// from(lane, argument): the lane whose x becomes the result.
template <class From>
void shuffle_lanes(void* const* lanes, From from) {
  for (int l = 0; l < kWarpSize; ++l) {
    Shuffle& mine = *static_cast<Shuffle*>(lanes[l]);
    mine.result = static_cast<Shuffle*>(lanes[from(l, mine.lane) & 31])->x;
  }
}
constexpr Collective kShuffleXor = {"shuffle_xor", [](void* const* lanes) {
                                      shuffle_lanes(lanes, [](int l, int mask) { return l ^ mask; });
                                    }};
constexpr Collective kShuffle = {
    "shuffle", [](void* const* lanes) { shuffle_lanes(lanes, [](int, int from) { return from; }); }};
constexpr Collective kShuffleUp = {"shuffle_up", [](void* const* lanes) {
                                     shuffle_lanes(lanes, [](int l, int n) { return l >= n ? l - n : l; });
                                   }};
constexpr Collective kBallot = {"ballot", [](void* const* lanes) {
                                  uint32_t bits = 0;
                                  for (int l = 0; l < kWarpSize; ++l)
                                    bits |= static_cast<Shuffle*>(lanes[l])->x << l;
                                  for (int l = 0; l < kWarpSize; ++l)
                                    static_cast<Shuffle*>(lanes[l])->result = bits;
                                }};
uint32_t meet_to_shuffle(const Collective& kind, uint32_t x, int lane, void* site) {
  Shuffle mine = {x, lane, 0};
  meet(kind, &mine, site);
  return mine.result;
}
}  // namespace

uint32_t shuffle_xor(uint32_t x, int mask) { return meet_to_shuffle(kShuffleXor, x, mask, LANNER_SITE); }
uint32_t shuffle(uint32_t x, int from_lane) { return meet_to_shuffle(kShuffle, x, from_lane, LANNER_SITE); }
uint32_t shuffle_up(uint32_t x, int n_lanes) { return meet_to_shuffle(kShuffleUp, x, n_lanes, LANNER_SITE); }
uint32_t ballot(bool x) { return meet_to_shuffle(kBallot, x, 0, LANNER_SITE); }

// --- between blocks
// -------------------------------------------------------------------------------------------
void fence_device() { remember_fence(); }

int32_t atomic_add(int32_t* p, int32_t x) {
  check_access(p, 4, Access::atomic, 4, LANNER_SITE);
  meet_at_atomic(p);
  const int32_t before = *p;
  *p = static_cast<int32_t>(static_cast<uint32_t>(before) + static_cast<uint32_t>(x));
  block.yield();
  return before;
}
uint32_t atomic_max(uint32_t* p, uint32_t x) {
  check_access(p, 4, Access::atomic, 4, LANNER_SITE);
  meet_at_atomic(p);
  const uint32_t before = *p;
  *p = before < x ? x : before;
  block.yield();
  return before;
}
void wait_for_kernel_ahead() { block.running->waited_for_kernel_ahead = true; }

// --- asynchronous copies
// ------------------------------------------------------------------------------------
namespace {
void arrive(const Copy& copy) {
  if (copy.global)
    std::memcpy(copy.shared, copy.global, 16);
  else
    std::memset(copy.shared, 0, 16);
}
}  // namespace

void copy_async16(void* shared, const void* global, bool valid) {
  void* site = LANNER_SITE;
  if (valid) check_access(global, 16, Access::read, 16, site);
  check_copy_begins(shared, site);
  count_lane(shared, 16, site);
  const Copy copy = {shared, valid ? global : nullptr, site};
  if (configuration().copies == Delivery::eager) arrive(copy);
  block.running->groups.back().push_back(copy);
}
void copy_async_commit() { block.running->groups.emplace_back(); }
void copy_async_wait(int n_groups) {
  auto& groups = block.running->groups;  // the open one is none of the n
  while (static_cast<int>(groups.size()) - 1 > n_groups) {
    for (const Copy& copy : groups.front()) {
      if (configuration().copies == Delivery::lazy) arrive(copy);
      check_copy_arrives(copy.shared, copy.site);
    }
    groups.pop_front();
  }
}

// --- matrices
// ---------------------------------------------------------------------------------------------------
namespace {
struct LoadMatrices {
  const void* row;
  int n_matrices;
  uint32_t result[4];
  void* site;
};
template <bool transposed>
void load_lanes(void* const* lanes) {
  const int n = static_cast<LoadMatrices*>(lanes[0])->n_matrices;
  uint16_t rows[8][8];
  for (int m = 0; m < n; ++m) {
    const void* at[8];
    for (int r = 0; r < 8; ++r) {
      at[r] = static_cast<LoadMatrices*>(lanes[8 * m + r])->row;
      std::memcpy(rows[r], at[r], 16);
    }
    count_rows(at, 8, static_cast<LoadMatrices*>(lanes[0])->site);
    for (int l = 0; l < kWarpSize; ++l) {
      const int row = l / 4, column = 2 * (l % 4);
      const uint16_t first = transposed ? rows[column][row] : rows[row][column];
      const uint16_t second = transposed ? rows[column + 1][row] : rows[row][column + 1];
      static_cast<LoadMatrices*>(lanes[l])->result[m] = first | static_cast<uint32_t>(second) << 16;
    }
  }
}
constexpr Collective kLoadMatrices = {"load_matrices", load_lanes<false>};
constexpr Collective kLoadTransposed = {"load_matrices_transposed", load_lanes<true>};

struct Mma {
  Float4 d;
  Bytes16 a;
  Bytes8 b;
};
void multiply_lanes(void* const* lanes) {
  using Row = float __attribute__((vector_size(32)));  // 8 columns
  float a[16][16];
  Row b[16], d[16];
  for (int l = 0; l < kWarpSize; ++l) {
    const Mma& mine = *static_cast<Mma*>(lanes[l]);
    const int g = l / 4, c = 2 * (l % 4);
    auto split = [](uint32_t pair, float& first, float& second) {
      first = std::bit_cast<float>(pair << 16);
      second = std::bit_cast<float>(pair & 0xffff0000u);
    };
    split(mine.a.x, a[g][c], a[g][c + 1]);
    split(mine.a.y, a[g + 8][c], a[g + 8][c + 1]);
    split(mine.a.z, a[g][c + 8], a[g][c + 9]);
    split(mine.a.w, a[g + 8][c + 8], a[g + 8][c + 9]);
    float first, second;
    split(mine.b.x, first, second);
    b[c][g] = first, b[c + 1][g] = second;
    split(mine.b.y, first, second);
    b[c + 8][g] = first, b[c + 9][g] = second;
    d[g][c] = mine.d.x, d[g][c + 1] = mine.d.y;
    d[g + 8][c] = mine.d.z, d[g + 8][c + 1] = mine.d.w;
  }
  for (int i = 0; i < 16; ++i) {
    Row sum = d[i];
    for (int k = 0; k < 16; ++k) sum += a[i][k] * b[k];
    d[i] = sum;
  }
  for (int l = 0; l < kWarpSize; ++l) {
    const int g = l / 4, c = 2 * (l % 4);
    static_cast<Mma*>(lanes[l])->d = {d[g][c], d[g][c + 1], d[g + 8][c], d[g + 8][c + 1]};
  }
}
constexpr Collective kMma = {"mma_bf16", multiply_lanes};

struct MmaInt8 {
  Bytes16 d, a;
  Bytes8 b;
};
void multiply_byte_lanes(void* const* lanes) {
  int8_t a[16][32], b[8][32];
  uint32_t d[16][8];
  for (int l = 0; l < kWarpSize; ++l) {
    const MmaInt8& mine = *static_cast<MmaInt8*>(lanes[l]);
    const int g = l / 4, c = l % 4;
    const auto put = [](uint32_t bytes, int8_t* to) { std::memcpy(to, &bytes, 4); };
    put(mine.a.x, &a[g][4 * c]), put(mine.a.y, &a[g + 8][4 * c]);
    put(mine.a.z, &a[g][4 * c + 16]), put(mine.a.w, &a[g + 8][4 * c + 16]);
    put(mine.b.x, &b[g][4 * c]), put(mine.b.y, &b[g][4 * c + 16]);
    d[g][2 * c] = mine.d.x, d[g][2 * c + 1] = mine.d.y;
    d[g + 8][2 * c] = mine.d.z, d[g + 8][2 * c + 1] = mine.d.w;
  }
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      int32_t sum = 0;
      for (int k = 0; k < 32; ++k) sum += a[i][k] * b[j][k];
      d[i][j] += static_cast<uint32_t>(sum);
    }
  }
  for (int l = 0; l < kWarpSize; ++l) {
    const int g = l / 4, c = 2 * (l % 4);
    static_cast<MmaInt8*>(lanes[l])->d = {d[g][c], d[g][c + 1], d[g + 8][c], d[g + 8][c + 1]};
  }
}
constexpr Collective kMmaInt8 = {"mma_int8", multiply_byte_lanes};
}  // namespace

Bytes16 load_matrices(const void* row, int n_matrices, bool transposed) {
  void* site = LANNER_SITE;
  if (block.lane() < 8 * n_matrices) check_access(row, 16, Access::read, 16, site);
  LoadMatrices mine = {row, n_matrices, {}, site};
  meet(transposed ? kLoadTransposed : kLoadMatrices, &mine, site);
  return {mine.result[0], mine.result[1], mine.result[2], mine.result[3]};
}

Float4 mma_bf16(Float4 d, Bytes16 a, Bytes8 b) {
  Mma mine = {d, a, b};
  meet(kMma, &mine, LANNER_SITE);
  return mine.d;
}

Bytes16 mma_int8(Bytes16 d, Bytes16 a, Bytes8 b) {
  MmaInt8 mine = {d, a, b};
  meet(kMmaInt8, &mine, LANNER_SITE);
  return mine.d;
}

}  // namespace lanner::cuda::emulated
