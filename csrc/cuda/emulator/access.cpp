#include "cuda/emulator/access.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include <cstring>
#include <unordered_map>

#include "cuda/emulator/block.h"
#include "cuda/emulator/memory.h"
#include "cuda/emulator/order.h"
#include "cuda/emulator/report.h"

namespace lanner::cuda::emulated {
namespace {

const char* verb(Access access) {
  switch (access) {
    case Access::read:
      return "reads";
    case Access::write:
      return "writes";
    case Access::atomic:
      return "updates";
    case Access::tensor_read:
      return "multiplies by";
    default:
      return "copies to";
  }
}

// "thread 3 of block (0, 0, 0) of softmax_kernel reads 4 bytes of shared memory at + 128 (softmax.cuh:41)"
std::string sentence(const void* p, size_t n_bytes, Access access, void* site) {
  return cat(block.place(*block.running), " of ", block.kernel, " ", verb(access), " ", n_bytes, " bytes ",
             name_bytes(p), " (", name_site(site), ")");
}

// Not device memory: a variable of the kernel, its parameters, constants of the module. Anything else would
// be a fault on a GPU, and might be one here.
void check_outside(const void* p, size_t n_bytes, Access access, void* site) {
  if (is_on_stack(p)) return;
  static std::unordered_map<uintptr_t, bool> in_module;  // by page
  auto [it, fresh] = in_module.try_emplace(reinterpret_cast<uintptr_t>(p) / 4096);
  if (fresh) {
    Dl_info info;
    it->second = dladdr(p, &info) != 0;
  }
  if (it->second && access == Access::read) return;
  const std::string message = sentence(p, n_bytes, access, site);
  add_violation("host memory", message);
  block.fail(message);
}

bool all_written(const uint8_t* state, size_t n) {
  constexpr uint64_t kEight = 0x0101010101010101ull * kWritten;
  uint64_t eight;
  for (; n >= 8; n -= 8, state += 8) {
    std::memcpy(&eight, state, 8);
    if (eight != kEight) return false;
  }
  for (; n; --n)
    if (*state++ != kWritten) return false;
  return true;
}

// What a byte's state has against an access, nullptr if nothing.
const char* objection(uint8_t state, Access access) {
  if (state == kNobodys) return "bounds";
  if (state == kPending) return "pending";
  return state == kUnwritten && access != Access::write && access != Access::tensor_write ? "unwritten"
                                                                                          : nullptr;
}

void check_state(const void* p, size_t n_bytes, Access access, void* site) {
  uint8_t* state = arena.state + arena.offset(p);
  if (all_written(state, n_bytes)) return;
  for (size_t i = 0; i < n_bytes; ++i)
    if (const char* kind = objection(state[i], access)) {
      const char* what = *kind == 'b'   ? ", which nobody owns"
                         : *kind == 'p' ? ", to which a copy is under way that was not waited for"
                                        : ", which nothing has written";
      add_violation(kind, sentence(p, n_bytes, access, site) + what);
      break;
    }
  if (writes(access))
    for (size_t i = 0; i < n_bytes; ++i)
      if (state[i] == kUnwritten) state[i] = kWritten;
}

}  // namespace

std::string name_bytes(const void* p) {
  if (arena.is_shared(p)) return cat("of shared memory at +", static_cast<const char*>(p) - arena.shared);
  return arena.holds(p) ? name_global(p) : cat("of the host at ", p);
}

void check_access(const void* p, size_t n_bytes, Access access, size_t align, void* site) {
  if (!configuration().checks) return;
  if (!arena.holds(p) || arena.offset(p) + n_bytes > arena.n_bytes)
    return check_outside(p, n_bytes, access, site);
  if (reinterpret_cast<uintptr_t>(p) % align)
    add_violation("misaligned", cat(sentence(p, n_bytes, access, site), ", not aligned to ", align));
  check_state(p, n_bytes, access, site);
  if (const Conflict conflict = order_access(p, n_bytes, access, site); conflict.kind) [[unlikely]]
    add_violation(conflict.kind, sentence(p, n_bytes, access, site) + conflict.with);
}

namespace {
void set_state(const void* p, size_t n_bytes, State to) {
  if (!configuration().checks || !arena.holds(p)) return;
  uint8_t* state = arena.state + arena.offset(p);
  for (size_t i = 0; i < n_bytes; ++i)
    if (state[i] != kNobodys) state[i] = to;
}
}  // namespace

void check_copy_begins(const void* shared, void* site) {
  check_access(shared, 16, Access::write, 16, site);
  set_state(shared, 16, kPending);
}

void check_copy_arrives(const void* shared, void* site) {
  if (!configuration().checks || !arena.holds(shared)) return;
  set_state(shared, 16, kWritten);
  order_access(shared, 16, Access::write, site);
}

void check_tensor_copy_begins(const void* shared, size_t n_bytes, void* site) {
  check_access(shared, n_bytes, Access::tensor_write, 16, site);
  set_state(shared, n_bytes, kPending);
}

void check_tensor_copy_arrives(const void* shared, size_t n_bytes) { set_state(shared, n_bytes, kWritten); }

void check_tensor_read_begins(const void* shared, size_t n_bytes, void* site) {
  if (!configuration().checks || !arena.holds(shared)) return;
  check_state(shared, n_bytes, Access::tensor_read, site);
  if (const Conflict conflict = check_order(shared, n_bytes, Access::tensor_read); conflict.kind)
    add_violation(conflict.kind, sentence(shared, n_bytes, Access::tensor_read, site) + conflict.with);
}

void check_tensor_read_ends(const void* shared, size_t n_bytes, void* site) {
  if (!configuration().checks || !arena.holds(shared)) return;
  if (const Conflict conflict = order_access(shared, n_bytes, Access::tensor_read, site); conflict.kind)
    add_violation(conflict.kind, sentence(shared, n_bytes, Access::tensor_read, site) + conflict.with);
}

}  // namespace lanner::cuda::emulated
