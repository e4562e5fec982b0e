// What g++ -fsanitize=thread calls before each load and store of a kernel unit. libtsan is not linked: these
// are ours.
#include "cuda/emulator/access.h"
#include "cuda/emulator/banks.h"
#include "cuda/emulator/block.h"
#include "cuda/emulator/report.h"
#include "cuda/emulator/site.h"

namespace {

using lanner::cuda::emulated::Access;

inline void touch(const void* p, size_t n_bytes, Access access, size_t align, void* site) {
  using namespace lanner::cuda::emulated;
  if (!block.running || is_on_stack(p)) return;  // the host's part of the unit, or a variable of the kernel
  check_access(p, n_bytes, access, align, site);
  count_lane(p, n_bytes, site);
}

void complain(const char* kind, const char* what, uintptr_t value, void* site) {
  using namespace lanner::cuda::emulated;
  if (!block.running || !configuration().checks) return;
  add_violation(kind, lanner::cat(block.place(*block.running), " of ", block.kernel, " ", what, value, " (",
                                  name_site(site), ")"));
}

}  // namespace

#define LANNER_HOOK extern "C" __attribute__((visibility("default"))) void

#define LANNER_HOOKS_OF_SIZE(n)                                                                         \
  LANNER_HOOK __tsan_read##n(void* p) { touch(p, n, Access::read, n, LANNER_SITE); }                    \
  LANNER_HOOK __tsan_write##n(void* p) { touch(p, n, Access::write, n, LANNER_SITE); }                  \
  LANNER_HOOK __tsan_unaligned_read##n(void* p) { touch(p, n, Access::read, 1, LANNER_SITE); }          \
  LANNER_HOOK __tsan_unaligned_write##n(void* p) { touch(p, n, Access::write, 1, LANNER_SITE); }        \
  LANNER_HOOK __tsan_volatile_read##n(void* p) { touch(p, n, Access::read, n, LANNER_SITE); }           \
  LANNER_HOOK __tsan_volatile_write##n(void* p) { touch(p, n, Access::write, n, LANNER_SITE); }         \
  LANNER_HOOK __tsan_unaligned_volatile_read##n(void* p) { touch(p, n, Access::read, 1, LANNER_SITE); } \
  LANNER_HOOK __tsan_unaligned_volatile_write##n(void* p) { touch(p, n, Access::write, 1, LANNER_SITE); }
LANNER_HOOKS_OF_SIZE(1)
LANNER_HOOKS_OF_SIZE(2)
LANNER_HOOKS_OF_SIZE(4)
LANNER_HOOKS_OF_SIZE(8)
LANNER_HOOKS_OF_SIZE(16)

LANNER_HOOK __tsan_read_range(void* p, size_t n_bytes) { touch(p, n_bytes, Access::read, 1, LANNER_SITE); }
LANNER_HOOK __tsan_write_range(void* p, size_t n_bytes) { touch(p, n_bytes, Access::write, 1, LANNER_SITE); }

LANNER_HOOK __tsan_init() {}
LANNER_HOOK __tsan_func_entry(void*) {}
LANNER_HOOK __tsan_func_exit() {}
LANNER_HOOK __tsan_vptr_read(void**) {}
LANNER_HOOK __tsan_vptr_update(void**, void*) {}
LANNER_HOOK __tsan_acquire(void*) {}
LANNER_HOOK __tsan_release(void*) {}

// And -fsanitize=alignment,bounds,shift-exponent, when something is wrong; their first argument tells where
// in the source.
#define LANNER_COMPLAINT(check, kind, what) \
  LANNER_HOOK __ubsan_handle_##check(void*, uintptr_t value) { complain(kind, what, value, LANNER_SITE); }
LANNER_COMPLAINT(type_mismatch_v1, "misaligned", "uses an address that is not aligned to its type: ")
LANNER_COMPLAINT(out_of_bounds, "index", "uses an index outside an array: ")
LANNER_HOOK __ubsan_handle_shift_out_of_bounds(void*, uintptr_t, uintptr_t n) {
  complain("shift", "shifts by too many bits: ", n, LANNER_SITE);
}

// Of the host's part: the guards of static variables.
#define LANNER_ATOMIC_LOAD(bits, T)                                                                 \
  extern "C" __attribute__((visibility("default"))) T __tsan_atomic##bits##_load(const T* p, int) { \
    return *p;                                                                                      \
  }
LANNER_ATOMIC_LOAD(8, uint8_t)
LANNER_ATOMIC_LOAD(32, uint32_t)
LANNER_ATOMIC_LOAD(64, uint64_t)
