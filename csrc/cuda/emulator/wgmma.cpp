// Multiplications of four warps, which run on while their threads do.
#include <bit>
#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <vector>

#include "cuda/device_sm90.h"
#include "cuda/emulator/access.h"
#include "cuda/emulator/block.h"
#include "cuda/emulator/memory.h"
#include "cuda/emulator/report.h"
#include "cuda/emulator/site.h"
#include "cuda/emulator/sm90.h"

namespace lanner::cuda::emulated {
namespace {

constexpr int kThreads = kWarpgroupThreads;
constexpr int kRows = 64, kInner = 16;
constexpr int kGroupBytes = 1024;  // from 8 rows to the next 8

struct Wgmma {
  int n;  // columns of d
  uint64_t a, b;
  bool accumulate;
  float* d[kThreads];
  void* site;
};

struct Warpgroup {
  // Of the multiplication that the threads are about to begin.
  std::vector<Thread*> waiting;
  Wgmma next;
  // All of this block; the first n_done have run.
  std::deque<Wgmma> begun;
  size_t n_begun = 0, n_done = 0;
  std::vector<float> values[kThreads];  // of d while it must not be touched
  struct Done {
    size_t end;  // how many were done then
    int by;      // the thread whose reads of the operands they are, and when by its clock
    uint32_t at;
  };
  std::vector<Done> done;
  // By thread.
  size_t n_issued[kThreads] = {};
  std::deque<size_t> groups[kThreads];  // how many were issued when it was closed
  bool fenced[kThreads] = {};
  size_t n_known[kThreads] = {};  // of `done`
};
std::vector<Warpgroup> warpgroups;

Warpgroup& mine() { return warpgroups[static_cast<size_t>(block.running->index / kThreads)]; }
int my_index() { return block.running->index % kThreads; }

// Row r of an operand: 16 values of k. The swizzle works on bits of the address, as the copies do.
const char* chunk_of(uint64_t descriptor, int r, int chunk) {
  const uint32_t start = static_cast<uint32_t>(descriptor & 0x3fff) << 4;
  const uint32_t plain = start + static_cast<uint32_t>(r / 8 * kGroupBytes + r % 8 * 128 + chunk * 16);
  return arena.shared + (plain ^ ((plain >> 7 & 7) << 4));
}
void load_row(float* out, uint64_t descriptor, int r) {
  for (int chunk = 0; chunk < 2; ++chunk) {
    uint16_t bits[8];
    std::memcpy(bits, chunk_of(descriptor, r, chunk), 16);
    for (int i = 0; i < 8; ++i)
      out[8 * chunk + i] = std::bit_cast<float>(static_cast<uint32_t>(bits[i]) << 16);
  }
}
template <class Each>
void each_chunk(const Wgmma& w, Each each) {
  for (int r = 0; r < kRows; ++r) each(chunk_of(w.a, r, 0)), each(chunk_of(w.a, r, 1));
  for (int r = 0; r < w.n; ++r) each(chunk_of(w.b, r, 0)), each(chunk_of(w.b, r, 1));
}

// Thread t has of rows 16 (t / 32) + t % 32 / 4 and 8 below it columns 8 j + 2 (t % 4) and the next.
void multiply(const Wgmma& w, float* const* d) {
  float a[kRows][kInner];
  std::vector<float> b(static_cast<size_t>(kInner * w.n));  // (k, n)
  for (int r = 0; r < kRows; ++r) load_row(a[r], w.a, r);
  for (int r = 0; r < w.n; ++r) {
    float row[kInner];
    load_row(row, w.b, r);
    for (int k = 0; k < kInner; ++k) b[static_cast<size_t>(k * w.n + r)] = row[k];
  }
  std::vector<float> sums(static_cast<size_t>(w.n));
  for (int r = 0; r < kRows; ++r) {
    float* const* owners = d + r / 16 * 32 + r % 8 * 4;  // the four threads that share the row
    const int half = r % 16 / 8;
    for (int c = 0; c < w.n; ++c)
      sums[static_cast<size_t>(c)] = w.accumulate ? owners[c % 8 / 2][c / 8 * 4 + 2 * half + c % 2] : 0.0f;
    for (int k = 0; k < kInner; ++k) {
      const float x = a[r][k];
      const float* y = b.data() + k * w.n;
      for (int c = 0; c < w.n; ++c) sums[static_cast<size_t>(c)] += x * y[c];
    }
    for (int c = 0; c < w.n; ++c)
      owners[c % 8 / 2][c / 8 * 4 + 2 * half + c % 2] = sums[static_cast<size_t>(c)];
  }
}

size_t n_values(const Wgmma& w) { return static_cast<size_t>(w.n / 2); }

// d holds this while a multiplication is under way, so that who touches it is found out.
const float kTouched = std::bit_cast<float>(0x7fadcba9u);
bool is_untouched(const float* d, size_t n) {
  for (size_t i = 0; i < n; ++i)
    if (std::bit_cast<uint32_t>(d[i]) != 0x7fadcba9u) return false;
  return true;
}

void check_untouched(const Warpgroup& g, const Wgmma& w) {
  for (int t = 0; t < kThreads; ++t)
    if (!is_untouched(w.d[t], n_values(w))) {
      add_violation("wgmma", cat("thread ", t, " of the warpgroup of ", block.kernel,
                                 " changed d between wgmma and wgmma_wait (", name_site(w.site), ")"));
      break;
    }
  (void)g;
}

// Runs all up to number `end`, as late as that: now.
void run_until(Warpgroup& g, size_t end) {
  if (g.n_done >= end) return;
  while (g.n_done < end) {
    const Wgmma& w = g.begun.front();
    each_chunk(w, [&](const char* p) { check_tensor_read_ends(p, 16, w.site); });
    if (configuration().wgmma == Delivery::lazy) {
      float* kept[kThreads];
      for (int t = 0; t < kThreads; ++t) kept[t] = g.values[t].data();
      multiply(w, kept);
      bool last = true;  // on this d
      for (size_t i = 1; i < g.begun.size(); ++i) last &= g.begun[i].d[0] != w.d[0];
      if (last) {
        check_untouched(g, w);
        for (int t = 0; t < kThreads; ++t) std::memcpy(w.d[t], kept[t], n_values(w) * sizeof(float));
      }
    }
    g.begun.pop_front();
    ++g.n_done;
  }
  g.done.push_back({end, block.running->index, block.running->clock.now++});
}

void begin(Warpgroup& g) {
  const Wgmma& w = g.next;
  each_chunk(w, [&](const char* p) { check_tensor_read_begins(p, 16, w.site); });
  if (configuration().wgmma == Delivery::eager) {
    multiply(w, w.d);
  } else {
    bool again = false;  // d is under way already
    for (const Wgmma& other : g.begun) again |= other.d[0] == w.d[0];
    if (again)
      check_untouched(g, w);
    else if (!g.begun.empty())
      run_until(g, g.n_begun);  // two accumulators at once: the values of one are kept
    if (!again)
      for (int t = 0; t < kThreads; ++t) {
        g.values[t].assign(w.d[t], w.d[t] + n_values(w));
        std::fill_n(w.d[t], n_values(w), kTouched);
      }
  }
  g.begun.push_back(w);
  ++g.n_begun;
}

}  // namespace

void begin_block_wgmma() {
  warpgroups.clear();
  if (block.n_threads % kThreads == 0) warpgroups.resize(static_cast<size_t>(block.n_threads / kThreads));
}

uint64_t make_descriptor(const void* shared) {
  const size_t offset = static_cast<size_t>(static_cast<const char*>(shared) - arena.shared);
  if (offset >= kSharedBytes || offset % 1024)
    block.fail(cat(block.kernel, ": make_descriptor of ", name_bytes(shared),
                   ", wanted shared memory aligned to 1024 (", name_site(LANNER_SITE), ")"));
  return uint64_t{1} << 62 | uint64_t{kGroupBytes / 16} << 32 | uint64_t{1} << 16 | offset >> 4;
}

void wgmma_bf16(float* d, int n, uint64_t a, uint64_t b, bool accumulate) {
  void* site = LANNER_SITE;
  if (warpgroups.empty())
    block.fail(cat(block.kernel, ": wgmma in a block of ", block.n_threads, " threads"));
  Warpgroup& g = mine();
  if (g.waiting.empty())
    g.next = {n, a, b, accumulate, {}, site};
  else if (g.next.a != a || g.next.b != b || g.next.n != n || g.next.accumulate != accumulate)
    add_violation("divergent", cat("threads of a warpgroup of ", block.kernel,
                                   " multiply different operands (", name_site(site), ")"));
  if (!g.fenced[my_index()])
    add_violation("wgmma",
                  cat("no wgmma_fence() before wgmma in ", block.kernel, " (", name_site(site), ")"));
  g.next.d[my_index()] = d;
  ++g.n_issued[my_index()];
  g.waiting.push_back(block.running);
  if (g.waiting.size() < kThreads) return block.stop("wgmma", site);
  begin(g);
  for (Thread* t : g.waiting) block.wake(*t);
  g.waiting.clear();
}

void wgmma_fence() { mine().fenced[my_index()] = true; }

void wgmma_commit() { mine().groups[my_index()].push_back(mine().n_issued[my_index()]); }

void wgmma_wait(int n_groups) {
  Warpgroup& g = mine();
  auto& groups = g.groups[my_index()];
  size_t end = 0;
  while (static_cast<int>(groups.size()) > n_groups) {
    end = groups.front();
    groups.pop_front();
  }
  run_until(g, end);
  // The operands were read in the names of single threads; who has waited may tell others that they are free.
  size_t& n_known = g.n_known[my_index()];
  Snapshot all;
  for (; n_known < g.done.size() && g.done[n_known].end <= end; ++n_known) {
    if (g.done[n_known].by == block.running->index) continue;
    if (!all) {
      all = Snapshot::make(block.n_threads);
      all.learn(block.running->clock.others);
    }
    all.learn(g.done[n_known].by, g.done[n_known].at);
  }
  if (all) block.running->clock.others = all;
  block.yield();
}

void set_registers(int) { block.yield(); }

}  // namespace lanner::cuda::emulated
