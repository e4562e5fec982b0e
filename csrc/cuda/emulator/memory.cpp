#include "cuda/emulator/memory.h"

#include <sys/mman.h>

#include <cstring>
#include <map>

#include "cuda/emulator/access.h"
#include "cuda/emulator/control.h"
#include "cuda/runtime.h"

namespace lanner::cuda::emulated {

Arena arena;

namespace {

constexpr size_t kArenaBytes = size_t{16} << 30;
constexpr size_t kAlign = 256;
constexpr size_t kRedZone = 1024;  // at least, behind each allocation

std::map<size_t, size_t> allocated;   // offset to bytes asked for
std::map<size_t, size_t> free_parts;  // offset to bytes
size_t n_allocated = 0;

size_t span(size_t n_bytes) { return (n_bytes + kRedZone + kAlign - 1) / kAlign * kAlign; }

}  // namespace

void* reserve_bytes(size_t n_bytes) {
  void* p =
      mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw DeviceError(cat("emulator: no address space for ", n_bytes, " bytes"));
  return p;
}

void reserve_arena() {
  if (arena.base) return;
  char* base = static_cast<char*>(reserve_bytes(kArenaBytes));
  arena.state = static_cast<uint8_t*>(reserve_bytes(kArenaBytes));
  arena.base = base;
  arena.n_bytes = kArenaBytes;
  arena.shared = base + 2 * 1024 * 1024 + 1024;
  const size_t first = 4 * 1024 * 1024;
  free_parts[first] = kArenaBytes - first - kRedZone;
}

void poison_shared(size_t n_bytes) {
  static size_t last = 0;
  uint8_t* state = arena.state + arena.offset(arena.shared);
  if (last > n_bytes) std::memset(state + n_bytes, kNobodys, last - n_bytes);

  std::memset(state, kUnwritten, n_bytes);
  std::memset(arena.shared, 0xff, n_bytes);
  last = n_bytes;
}

size_t n_allocated_bytes() { return n_allocated; }

std::string name_global(const void* p) {
  const size_t offset = arena.offset(p);
  auto it = allocated.upper_bound(offset);
  if (it == allocated.begin()) return cat("of device memory at ", p);
  --it;
  return cat("at +", offset - it->first, " of the ", it->second, " bytes at ",
             static_cast<const void*>(arena.base + it->first));
}

std::vector<std::pair<uintptr_t, size_t>> allocations() {
  std::vector<std::pair<uintptr_t, size_t>> all;
  for (const auto& [offset, n_bytes] : allocated)
    all.emplace_back(reinterpret_cast<uintptr_t>(arena.base + offset), n_bytes);
  return all;
}

void mark_unwritten(void* device, size_t n_bytes) {
  check_allocated("mark_unwritten", device, n_bytes);
  std::memset(device, 0xff, n_bytes);
  std::memset(arena.state + arena.offset(device), kUnwritten, n_bytes);
}

void mark_written(void* device, size_t n_bytes) {
  check_allocated("mark_written", device, n_bytes);
  std::memset(arena.state + arena.offset(device), kWritten, n_bytes);
}

void check_allocated(const char* call, const void* device, size_t n_bytes) {
  const size_t offset = arena.offset(device);
  auto it = allocated.upper_bound(offset);
  if (it == allocated.begin()) throw DeviceError(cat(call, ": ", device, " is no device memory"));
  --it;
  if (offset + n_bytes > it->first + it->second)
    throw DeviceError(cat(call, ": ", n_bytes, " bytes at ", device, ", the allocation of ", it->second,
                          " bytes ends before"));
}

}  // namespace lanner::cuda::emulated

namespace lanner::cuda {
using namespace emulated;

void* allocate(size_t n_bytes) {
  reserve_arena();
  const size_t wanted = span(n_bytes);
  for (auto it = free_parts.begin(); it != free_parts.end(); ++it) {
    if (it->second < wanted) continue;
    const auto [offset, n_free] = *it;
    free_parts.erase(it);
    if (n_free > wanted) free_parts[offset + wanted] = n_free - wanted;
    allocated[offset] = n_bytes;
    n_allocated += n_bytes;
    std::memset(arena.state + offset, kWritten, n_bytes);
    return arena.base + offset;
  }
  throw DeviceError(
      cat("allocate: ", n_bytes, " bytes, the device has ", kArenaBytes - n_allocated, " left"));
}

void release(void* p) noexcept {
  if (!p) return;
  const auto it = allocated.find(arena.offset(p));
  if (it == allocated.end()) return;
  auto [offset, n_bytes] = *it;
  allocated.erase(it);
  n_allocated -= n_bytes;
  size_t n = span(n_bytes);
  // Whole pages go back to the system, and are zero when they come again; the rest is cleared here.
  forget_accesses(offset, n);
  std::memset(arena.state + offset, kNobodys, n_bytes);
  constexpr size_t kPage = 4096;
  const size_t first = (offset + kPage - 1) / kPage * kPage, last = (offset + n_bytes) / kPage * kPage;
  if (last > first) {
    std::memset(arena.base + offset, 0, first - offset);
    madvise(arena.base + first, last - first, MADV_DONTNEED);
    std::memset(arena.base + last, 0, offset + n - last);
  } else {
    std::memset(arena.base + offset, 0, n);
  }
  auto next = free_parts.upper_bound(offset);
  if (next != free_parts.end() && next->first == offset + n) {
    n += next->second;
    next = free_parts.erase(next);
  }
  if (next != free_parts.begin()) {
    auto before = std::prev(next);
    if (before->first + before->second == offset) {
      before->second += n;
      return;
    }
  }
  free_parts[offset] = n;
}

}  // namespace lanner::cuda
