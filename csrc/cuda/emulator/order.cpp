#include "cuda/emulator/order.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <vector>

#include "cuda/emulator/block.h"
#include "cuda/emulator/memory.h"
#include "cuda/emulator/report.h"

namespace lanner::cuda::emulated {
namespace {

// A thread of a block at a time of its clock. Zero: nobody, because clocks begin at 1.
struct Moment {
  uint32_t bits = 0;
  Moment() = default;
  Moment(int thread, uint32_t time) : bits(static_cast<uint32_t>(thread) << 22 | (time & 0x3fffff)) {}
  int thread() const { return static_cast<int>(bits >> 22); }
  uint32_t time() const { return bits & 0x3fffff; }
  explicit operator bool() const { return bits; }
  bool operator==(const Moment&) const = default;
};
static_assert(kMaxThreads <= 1 << 10);

// The last accesses of four bytes. Sites are distances from a function of this module.
struct Cell {
  Moment write;
  uint32_t write_block;  // serial of the block, of all launches
  int32_t write_site;
  Moment reads[2];  // since the write: the last one, and one that is not known to be before it
  uint32_t read_block;
  int32_t read_site;
  uint8_t write_bytes, read_bytes[2];  // which of the four
  bool atomic : 1, tensor : 1;         // the write
  bool many_blocks : 1;                // more than one has read
};
static_assert(sizeof(Cell) == 32);

Cell* cells = nullptr;  // one for each four bytes of the arena

int32_t pack_site(void* site) {
  return static_cast<int32_t>(static_cast<char*>(site) - reinterpret_cast<char*>(&order_access));
}
void* unpack_site(int32_t site) { return reinterpret_cast<char*>(&order_access) + site; }

// --- between blocks -------------------------------------------------------------------------------------
struct Release {
  uint32_t block;
  Snapshot known;  // what the thread knew when it fenced
};
std::unordered_map<const void*, std::vector<Release>>
    releases;  // by the address of the atomic, of this launch
struct Acquired {
  Snapshot known;
  Moment by;  // who met the atomic
};
std::unordered_map<uint32_t, std::vector<Acquired>>
    acquired;  // by the block that released; of the running block
uint32_t acquired_by = 0;

// The running thread knows that moment of another block of this launch.
bool knows_of_other_block(uint32_t serial, Moment moment) {
  if (acquired_by != block.serial) return false;
  const auto it = acquired.find(serial);
  if (it == acquired.end()) return false;
  const Thread& me = *block.running;
  for (const Acquired& a : it->second)
    if (a.known[moment.thread()] >= moment.time() && me.clock.knows(me.index, a.by.thread(), a.by.time()))
      return true;
  return false;
}
bool knows_of_any_block() { return acquired_by == block.serial && !acquired.empty(); }

// --- one cell -------------------------------------------------------------------------------------------
bool known(Moment moment) {
  const Thread& me = *block.running;
  return me.clock.knows(me.index, moment.thread(), moment.time());
}

Conflict same_block(const char* did, Moment moment, int32_t site) {
  return {"race", cat("; thread ", moment.thread(), " ", did, " (", name_site(unpack_site(site)),
                      "), and no barrier is between")};
}
Conflict other_block(const char* did, uint32_t serial, int32_t site) {
  return {"blocks", cat("; block ", serial - block.first_serial, " of this launch ", did, " (",
                        name_site(unpack_site(site)), "), and no fence and atomic are between")};
}
Conflict kernel_ahead(const char* did, int32_t site) {
  return {"ahead", cat(", which a kernel ahead ", did, " (", name_site(unpack_site(site)),
                       "), before wait_for_kernel_ahead()")};
}
bool of_kernel_ahead(uint32_t serial) {
  return serial >= block.chain_serial && serial < block.first_serial &&
         !block.running->waited_for_kernel_ahead;
}
bool of_other_block(uint32_t serial) { return serial >= block.first_serial && serial != block.serial; }

Conflict against_write(const Cell& c, uint8_t bytes, Access access) {
  const bool atomic = access == Access::atomic;
  if (!c.write || !(c.write_bytes & bytes)) return {};
  if (c.write_block == block.serial) {
    const bool tensor = access == Access::tensor_read || access == Access::tensor_write;
    const Thread& writer = block.threads[c.write.thread()];
    if (tensor && !c.tensor && known(c.write) && writer.proxy_fence < c.write.time()) {
      return {"proxy", cat("; thread ", c.write.thread(), " wrote them (",
                           name_site(unpack_site(c.write_site)), "), and did not fence_async_proxy()")};
    }
    if (known(c.write) || (atomic && c.atomic)) return {};
    return same_block("wrote them", c.write, c.write_site);
  }
  if (of_other_block(c.write_block)) {
    if ((atomic && c.atomic) || knows_of_other_block(c.write_block, c.write)) return {};
    return other_block("wrote them", c.write_block, c.write_site);
  }
  return of_kernel_ahead(c.write_block) ? kernel_ahead("wrote", c.write_site) : Conflict{};
}

Conflict against_reads(const Cell& c, uint8_t bytes) {
  for (int i = 0; i < 2; ++i) {
    if (!c.reads[i] || !(c.read_bytes[i] & bytes)) continue;
    if (c.read_block == block.serial) {
      if (!known(c.reads[i])) return same_block("read them", c.reads[i], c.read_site);
      if (c.many_blocks && !knows_of_any_block())
        return other_block("read them too", c.read_block, c.read_site);
    } else if (of_other_block(c.read_block)) {
      if (!knows_of_other_block(c.read_block, c.reads[i]))
        return other_block("read them", c.read_block, c.read_site);
    } else if (of_kernel_ahead(c.read_block)) {
      return kernel_ahead("reads", c.read_site);
    }
  }
  return {};
}

void record_read(Cell& c, uint8_t bytes, Moment now, int32_t site) {
  if (c.read_block != block.serial) {
    c.many_blocks = c.reads[0] && of_other_block(c.read_block);
    c.reads[0] = c.reads[1] = Moment();
    c.read_block = block.serial;
  }
  auto put = [&](int i) {
    c.read_bytes[i] = c.reads[i] == now ? c.read_bytes[i] | bytes : bytes;
    c.reads[i] = now;
    c.read_site = site;
  };
  // A read that is known to be before this one needs no place: who waits for this one waited for it.
  const bool first_known = !c.reads[0] || known(c.reads[0]), second_known = !c.reads[1] || known(c.reads[1]);
  if (first_known && second_known) c.reads[1] = Moment();
  if (first_known) return put(0);
  if (second_known) return put(1);
  // One of the same warp goes: of two from different warps, a thread that writes can be ordered after one at
  // most without a barrier.
  put(c.reads[0].thread() / kWarpSize == now.thread() / kWarpSize ? 0 : 1);
}

void record_write(Cell& c, uint8_t bytes, Moment now, int32_t site, Access access) {
  const bool again = c.write == now && c.write_block == block.serial;
  c.write_bytes = again ? c.write_bytes | bytes : bytes;
  c.write = now;
  c.write_block = block.serial;
  c.write_site = site;
  c.atomic = access == Access::atomic;
  c.tensor = access == Access::tensor_write;
  for (int i = 0; i < 2; ++i)  // who is ordered after this write is ordered after the reads before it
    if (!(c.read_bytes[i] &= static_cast<uint8_t>(~bytes))) c.reads[i] = Moment();
}

}  // namespace

namespace {
// each(cell, which of its four bytes) for all bytes of an access.
template <class Each>
void each_cell(const void* p, size_t n_bytes, Each each) {
  if (!cells) [[unlikely]]
    cells = static_cast<Cell*>(reserve_bytes(arena.n_bytes / 4 * sizeof(Cell)));
  const size_t first = arena.offset(p), end = first + n_bytes;
  const bool shared = arena.is_shared(p);  // another block had another one
  for (size_t i = first / 4; i < (end + 3) / 4; ++i) {
    uint32_t bytes = 0xf;
    if (4 * i < first) bytes &= 0xfu << (first - 4 * i);
    if (4 * i + 4 > end) bytes &= 0xfu >> (4 * i + 4 - end);
    Cell& c = cells[i];
    if (shared && c.write_block != block.serial) c.write = Moment();
    if (shared && c.read_block != block.serial) c.reads[0] = c.reads[1] = Moment();
    each(c, static_cast<uint8_t>(bytes & 0xf));
  }
}
}  // namespace

Conflict check_order(const void* p, size_t n_bytes, Access access) {
  Conflict conflict;
  each_cell(p, n_bytes, [&](const Cell& c, uint8_t bytes) {
    if (!conflict.kind) conflict = against_write(c, bytes, access);
    if (!conflict.kind && writes(access)) conflict = against_reads(c, bytes);
  });
  return conflict;
}

Conflict order_access(const void* p, size_t n_bytes, Access access, void* site) {
  const Moment now(block.running->index, block.running->clock.now);
  const int32_t where = pack_site(site);
  Conflict conflict;
  each_cell(p, n_bytes, [&](Cell& c, uint8_t bytes) {
    if (!conflict.kind) conflict = against_write(c, bytes, access);
    if (!conflict.kind && writes(access)) conflict = against_reads(c, bytes);
    if (writes(access))
      record_write(c, bytes, now, where, access);
    else
      record_read(c, bytes, now, where);
  });
  return conflict;
}

void remember_fence() {
  Thread& me = *block.running;
  me.fence = Snapshot::make(block.n_threads);
  me.fence.learn(me.clock.others);
  me.fence.learn(me.index, me.clock.now);
  ++me.clock.now;  // what follows is not covered
}

void meet_at_atomic(const void* p) {
  if (!configuration().checks || arena.is_shared(p)) return;
  Thread& me = *block.running;
  std::vector<Release>& here = releases[p];
  if (acquired_by != block.serial) {
    acquired.clear();
    acquired_by = block.serial;
  }
  for (const Release& r : here)
    if (r.block != block.serial) acquired[r.block].push_back({r.known, Moment(me.index, me.clock.now)});
  if (me.fence) here.push_back({block.serial, me.fence});
}

void begin_launch_checks() {
  releases.clear();
  acquired.clear();
}

void forget_accesses(size_t offset, size_t n_bytes) {
  if (!cells) return;
  constexpr uintptr_t kPage = 4096;
  char* const begin = reinterpret_cast<char*>(cells + offset / 4);
  char* const end = reinterpret_cast<char*>(cells + (offset + n_bytes + 3) / 4);
  // Whole pages go back to the system, and are zero when they come again.
  char* const first = begin + (kPage - reinterpret_cast<uintptr_t>(begin) % kPage) % kPage;
  char* const last = end - reinterpret_cast<uintptr_t>(end) % kPage;
  if (last <= first || last - first < ptrdiff_t{1} << 20)
    return static_cast<void>(std::memset(begin, 0, static_cast<size_t>(end - begin)));
  std::memset(begin, 0, static_cast<size_t>(first - begin));
  madvise(first, static_cast<size_t>(last - first), MADV_DONTNEED);
  std::memset(last, 0, static_cast<size_t>(end - last));
}

}  // namespace lanner::cuda::emulated
