#include "cuda/emulator/block.h"

#include <algorithm>
#include <bit>
#include <map>
#include <random>

#include "cuda/emulator/banks.h"
#include "cuda/emulator/report.h"
#include "cuda/emulator/sm90.h"

namespace lanner::cuda::emulated {

Block block;

namespace {

std::mt19937_64 dice;

void run_fiber() {
  try {
    block.invoke(block.kernel_address, block.params);
  } catch (...) {
    block.failure = std::current_exception();
  }
  if (block.failure) {
    Fiber gone;
    switch_fibers(gone, block.host);
  }
  block.finish_thread();
}

// The first set bit after position `from`, or before it, going round.
int next_bit(uint32_t bits, int from, bool backwards) {
  if (!backwards) {
    const uint32_t after = from >= 31 ? 0 : bits & (~0u << (from + 1));
    return std::countr_zero(after ? after : bits);
  }
  const uint32_t before = bits & ((1u << from) - 1);
  return 31 - std::countl_zero(before ? before : bits);
}

}  // namespace

void seed_schedule(uint64_t seed) { dice.seed(seed); }
uint64_t random_below(uint64_t n) { return dice() % n; }

std::string Block::place(const Thread& thread) const {
  return cat("thread ", thread.index, " of block (", index[0], ", ", index[1], ", ", index[2], ")");
}

Thread* Block::choose() {
  const int n_warps = n_threads / kWarpSize;
  if (configuration().order == Order::random) {
    int n = 0;
    for (int w = 0; w < n_warps; ++w) n += std::popcount(warps[w].runnable);
    if (n == 0) return nullptr;
    int skip = static_cast<int>(dice() % static_cast<uint64_t>(n));
    for (int w = 0;; ++w) {
      const int here = std::popcount(warps[w].runnable);
      if (skip >= here) {
        skip -= here;
        continue;
      }
      uint32_t bits = warps[w].runnable;
      while (skip-- > 0) bits &= bits - 1;
      return &threads[w * kWarpSize + std::countr_zero(bits)];
    }
  }
  const bool backwards = configuration().order == Order::reverse;
  const int from = running->index / kWarpSize;
  for (int i = 0; i < n_warps; ++i) {
    const int w = (backwards ? from + n_warps - i : from + i) % n_warps;
    if (!warps[w].runnable) continue;
    const int lane = i == 0 ? running->index % kWarpSize : backwards ? 0 : kWarpSize - 1;
    return &threads[w * kWarpSize + next_bit(warps[w].runnable, lane, backwards)];
  }
  return nullptr;
}

__attribute__((noinline)) void Block::go_to(Thread* next) {
  Thread* self = running;
  if (next == self) return;
  running = next;
  switch_fibers(self->fiber, next->fiber);
}

void Block::stop(const char* operation, void* site) {
  running->waits_in = operation;
  running->site = site;
  warp().runnable &= ~(1u << lane());
  Thread* next = choose();
  while (!next && deliver_late_copies()) next = choose();
  if (!next) {
    add_violation("deadlock", waits());
    fail(cat("deadlock in ", kernel, ": ", waits()));
  }
  go_to(next);
}

void Block::wake(Thread& thread) {
  thread.waits_in = nullptr;
  warps[thread.index / kWarpSize].runnable |= 1u << (thread.index % kWarpSize);
}

void Block::yield() { go_to(choose()); }

void Block::fail(const std::string& message) {
  failure = std::make_exception_ptr(DeviceError(message));
  Fiber gone;
  switch_fibers(gone, host);
  __builtin_unreachable();
}

void Block::finish_thread() {
  running->done = true;
  warp().runnable &= ~(1u << lane());
  Thread* next = choose();
  if (!next && std::any_of(threads, threads + n_threads, [](const Thread& t) { return !t.done; })) {
    while (!next && deliver_late_copies()) next = choose();
    if (!next) {
      add_violation("deadlock", waits());
      fail(cat("deadlock in ", kernel, ": ", waits()));
    }
  }
  Fiber gone;
  if (!next) switch_fibers(gone, host);
  running = next;
  switch_fibers(gone, next->fiber);
  __builtin_unreachable();
}

// "threads 0-15 wait in shuffle at ...; threads 16-31 wait in sync_block at ...; thread 40 has returned"
std::string Block::waits() const {
  auto state = [&](const Thread& t) -> std::string {
    return t.done ? " returned" : cat(" wait in ", t.waits_in, " at ", name_site(t.site));
  };
  std::map<std::string, std::string> threads_by_state;  // one state, its ranges of threads
  for (int i = 0; i < n_threads;) {
    int end = i + 1;
    while (end < n_threads && threads[end].done == threads[i].done && threads[end].site == threads[i].site &&
           threads[end].waits_in == threads[i].waits_in)
      ++end;
    std::string& ranges = threads_by_state[state(threads[i])];
    ranges += cat(ranges.empty() ? "" : ", ", i, end == i + 1 ? "" : cat("-", end - 1));
    i = end;
  }
  std::string all = cat("in block (", index[0], ", ", index[1], ", ", index[2], ")");
  for (const auto& [what, ranges] : threads_by_state) all += cat("; threads ", ranges, what);
  return all;
}

void Block::run() {
  failure = nullptr;
  for (int i = 0; i < n_threads; ++i) {
    Thread& t = threads[i];
    t.index = i;
    t.clock = Clock{};
    t.waits_in = nullptr;
    t.done = t.waited_for_kernel_ahead = false;
    t.fence = Snapshot();
    t.proxy_fence = 0;
    t.groups.clear();
    t.groups.emplace_back();
    prepare(t.fiber, i, run_fiber);
  }
  for (int w = 0; w < n_threads / kWarpSize; ++w) {
    warps[w].runnable = ~0u;
    warps[w].arrived = 0;
  }
  for (Meeting& m : barriers) m = Meeting{};
  begin_block_barriers();
  begin_block_wgmma();
  running = &threads[configuration().order == Order::reverse ? 0 : n_threads - 1];
  running = choose();
  switch_fibers(host, running->fiber);
  flush_all_lanes();
  running = nullptr;
  if (failure) std::rethrow_exception(failure);
}

// --- meeting
// ------------------------------------------------------------------------------------------------

void meet(const Collective& collective, void* arguments, void* site) {
  Warp& warp = block.warp();
  if (!warp.arrived) {
    warp.collective = &collective;
    warp.first_site = site;
  } else if (warp.collective != &collective) {
    const std::string message =
        cat("lanes of a warp meet in different operations: ", block.place(*block.running), " in ",
            collective.name, " at ", name_site(site), ", others in ", warp.collective->name, " at ",
            name_site(warp.first_site));
    add_violation("divergent", message);
    block.fail(cat(block.kernel, ": ", message));
  }
  warp.lanes[block.lane()] = arguments;
  warp.arrived |= 1u << block.lane();
  if (warp.arrived != ~0u) return block.stop(collective.name, site);
  flush_lanes();
  warp.arrived = 0;
  warp.runnable = ~0u;
  collective.run(warp.lanes);
}

void meet_at_barrier(int id, int n_threads, const char* operation, void* site) {
  Meeting& barrier = block.barriers[id];
  if (barrier.n_arrived == 0) barrier.n_threads = n_threads;
  if (barrier.n_threads != n_threads || n_threads % kWarpSize || n_threads > block.n_threads)
    block.fail(cat(block.kernel, ": ", operation, " of barrier ", id, " at ", name_site(site), " by ",
                   n_threads, " threads, by others of ", barrier.n_threads, "; the block has ",
                   block.n_threads));
  barrier.waiting.push_back(block.running);
  if (++barrier.n_arrived < n_threads) return block.stop(operation, site);

  flush_all_lanes();
  join_clocks(barrier.waiting.data(), n_threads);
  for (Thread* t : barrier.waiting) block.wake(*t);
  barrier.waiting.clear();
  barrier.n_arrived = 0;
  block.yield();
}

void join_clocks(Thread* const* threads, int n) {
  bool ahead = false;
  Snapshot all = Snapshot::make(block.n_threads);
  const Snapshot* last = nullptr;
  for (int i = 0; i < n; ++i) {
    Thread& t = *threads[i];
    if (!last || !(*last == t.clock.others)) all.learn(t.clock.others);
    last = &t.clock.others;
    ahead |= t.waited_for_kernel_ahead;
  }
  for (int i = 0; i < n; ++i) all.learn(threads[i]->index, threads[i]->clock.now);
  for (int i = 0; i < n; ++i) {
    threads[i]->clock.others = all;
    ++threads[i]->clock.now;
    threads[i]->waited_for_kernel_ahead |= ahead;
  }
}

}  // namespace lanner::cuda::emulated
