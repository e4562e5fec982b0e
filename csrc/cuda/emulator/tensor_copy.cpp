// Barriers that count bytes, and the copies of tiles whose bytes they count.
#include <algorithm>
#include <cstring>
#include <deque>
#include <unordered_map>
#include <vector>

#include "cuda/device_sm90.h"
#include "cuda/emulator/access.h"
#include "cuda/emulator/block.h"
#include "cuda/emulator/memory.h"
#include "cuda/emulator/report.h"
#include "cuda/emulator/site.h"
#include "cuda/emulator/sm90.h"
#include "cuda/runtime_sm90.h"

namespace lanner::cuda::emulated {
namespace {

// What cuTensorMapEncodeTiled hides in its 128 bytes, readable.
struct Map {
  const bf16* matrix;
  int64_t rows, columns, box_rows;
  uint64_t mark;  // that make_tensor_map() made it
};
static_assert(sizeof(Map) <= sizeof(TensorMap));
constexpr uint64_t kMark = 0x70616d5f726f736e;
constexpr int64_t kChunk = 16;              // bytes that the swizzle moves as one
constexpr int64_t kRow = 2 * kTileColumns;  // bytes

// Barriers are kept beside the shared memory that they are in, whose eight bytes stay as they are.
struct BarrierState {
  int n_arrivals, n_left;  // of the current phase
  int64_t n_bytes = 0;     // expected and not here; below zero between a copy and its expectation
  uint32_t phase = 0;      // how many are complete
  bool fenced = false;     // fence_barrier_init() since
  int made_by;
  Snapshot known;  // to those who arrived in the current phase
  Snapshot known_when_complete;
  std::vector<Thread*> waiting;
};
std::unordered_map<const Barrier*, BarrierState> barriers;

struct TensorCopy {
  char* shared;
  Map map;
  Barrier* barrier;
  int64_t row, column;
  int thread;     // that asked for it
  uint32_t time;  // when, by its clock
};
std::deque<TensorCopy> under_way;

BarrierState& state_of(Barrier* b, const char* operation, void* site) {
  const auto it = barriers.find(b);
  if (it == barriers.end())
    block.fail(cat(block.kernel, ": ", operation, " of a barrier that was never initialized, ", name_bytes(b),
                   " (", name_site(site), ")"));
  check_access(b, sizeof(Barrier), Access::read, alignof(Barrier), site);  // ordered after its initialization
  return it->second;
}

void complete_if_done(BarrierState& s) {
  if (s.n_left != 0 || s.n_bytes != 0) return;
  ++s.phase;
  s.n_left = s.n_arrivals;
  s.known_when_complete = s.known;
  Snapshot next = Snapshot::make(block.n_threads);
  next.learn(s.known);
  s.known = next;
  for (Thread* t : s.waiting) block.wake(*t);
  s.waiting.clear();
}

void deliver(const TensorCopy& copy) {
  const Map& m = copy.map;
  for (int64_t r = 0; r < m.box_rows; ++r) {
    alignas(16) char line[kRow] = {};
    const int64_t row = copy.row + r;
    if (row >= 0 && row < m.rows) {
      const int64_t first = std::clamp<int64_t>(copy.column, 0, m.columns);
      const int64_t end = std::clamp<int64_t>(copy.column + kTileColumns, 0, m.columns);
      std::memcpy(line + 2 * (first - copy.column), m.matrix + row * m.columns + first,
                  static_cast<size_t>(2 * (end - first)));
    }
    for (int64_t c = 0; c < kRow / kChunk; ++c)
      std::memcpy(copy.shared + r * kRow + (c ^ r % 8) * kChunk, line + c * kChunk, kChunk);
  }
  check_tensor_copy_arrives(copy.shared, static_cast<size_t>(m.box_rows * kRow));
  BarrierState& s = barriers.at(copy.barrier);
  s.known.learn(copy.thread, copy.time);
  s.n_bytes -= m.box_rows * kRow;
  complete_if_done(s);
}

}  // namespace

void begin_block_barriers() {
  barriers.clear();
  under_way.clear();
}

bool deliver_late_copies() {
  if (under_way.empty()) return false;
  const Order order = configuration().order;
  const size_t i = order == Order::forward   ? 0
                   : order == Order::reverse ? under_way.size() - 1
                                             : static_cast<size_t>(random_below(under_way.size()));
  const TensorCopy copy = under_way[i];
  under_way.erase(under_way.begin() + static_cast<std::ptrdiff_t>(i));
  deliver(copy);
  return true;
}

void barrier_init(Barrier* b, int n_arrivals) {
  void* site = LANNER_SITE;
  check_access(b, sizeof(Barrier), Access::write, alignof(Barrier), site);
  if (n_arrivals < 1) block.fail(cat(block.kernel, ": barrier_init of ", n_arrivals, " arrivals"));
  BarrierState s;
  s.n_arrivals = s.n_left = n_arrivals;
  s.made_by = block.running->index;
  s.known = Snapshot::make(block.n_threads);
  barriers[b] = s;
}
void fence_barrier_init() {
  for (auto& [b, s] : barriers) s.fenced |= s.made_by == block.running->index;
}

void barrier_arrive(Barrier* b, uint32_t n_bytes) {
  void* site = LANNER_SITE;
  BarrierState& s = state_of(b, "barrier_arrive", site);
  Thread& me = *block.running;
  s.n_bytes += n_bytes;
  if (s.n_left == 0) {
    add_violation("arrivals",
                  cat(block.place(me), " of ", block.kernel, " arrives at the barrier ", name_bytes(b), " (",
                      name_site(site), "), where all ", s.n_arrivals, " have arrived"));
    return;
  }
  s.known.learn(me.clock.others);
  s.known.learn(me.index, me.clock.now);
  ++me.clock.now;
  --s.n_left;
  complete_if_done(s);
  block.yield();
}

void barrier_wait(Barrier* b, uint32_t parity) {
  void* site = LANNER_SITE;
  BarrierState& s = state_of(b, "barrier_wait", site);
  Thread& me = *block.running;
  while ((s.phase & 1) == (parity & 1)) {
    s.waiting.push_back(&me);
    block.stop("barrier_wait", site);
  }
  if (!s.known_when_complete) return;  // before the first phase
  Snapshot all = Snapshot::make(block.n_threads);
  all.learn(me.clock.others);
  all.learn(s.known_when_complete);
  me.clock.others = all;
}

void load_tile(void* shared, const TensorMap* map, Barrier* b, int row, int column) {
  void* site = LANNER_SITE;
  Map m;
  std::memcpy(&m, map, sizeof m);
  if (m.mark != kMark)
    block.fail(cat(block.kernel, ": load_tile by what is no tensor map (", name_site(site), ")"));
  BarrierState& s = state_of(b, "load_tile", site);
  const std::string where = cat(" (", name_site(site), ")");
  if (!s.fenced) add_violation("proxy", cat("load_tile to a barrier without fence_barrier_init()", where));
  if ((static_cast<char*>(shared) - arena.shared) % 1024)
    add_violation("misaligned", cat("load_tile to ", name_bytes(shared), ", not aligned to 1024", where));
  check_tensor_copy_begins(shared, static_cast<size_t>(m.box_rows * kRow), site);
  const int64_t first = std::max<int64_t>(column, 0),
                end = std::min<int64_t>(column + kTileColumns, m.columns);
  for (int64_t r = std::max(row, 0); first < end && r < std::min<int64_t>(row + m.box_rows, m.rows); ++r)
    check_access(m.matrix + r * m.columns + first, static_cast<size_t>(2 * (end - first)), Access::read, 2,
                 site);

  Thread& me = *block.running;
  const TensorCopy copy = {static_cast<char*>(shared), m, b, row, column, me.index, me.clock.now};
  ++me.clock.now;
  if (configuration().tensor_copies == Delivery::eager)
    deliver(copy);
  else
    under_way.push_back(copy);
  block.yield();
}

// What this thread wrote until now may be read by copies and multiplications.
void fence_async_proxy() { block.running->proxy_fence = block.running->clock.now++; }

}  // namespace lanner::cuda::emulated

namespace lanner::cuda {

TensorMap make_tensor_map(const bf16* matrix, int64_t rows, int64_t columns, int box_rows) {
  if (reinterpret_cast<uintptr_t>(matrix) % 16 || rows < 1 || columns < 1 || columns % 8 || box_rows < 1 ||
      box_rows > 256)
    throw DeviceError(cat("make_tensor_map: a matrix (", rows, ", ", columns, ") at ", matrix, ", ", box_rows,
                          " rows at once"));
  const emulated::Map map = {matrix, rows, columns, box_rows, emulated::kMark};
  TensorMap opaque = {};
  std::memcpy(&opaque, &map, sizeof map);
  return opaque;
}

}  // namespace lanner::cuda
