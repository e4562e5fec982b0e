#include "cuda/emulator/fiber.h"

#include <sys/mman.h>

#include <cstring>

#include "core/check.h"

namespace lanner::cuda::emulated {

uintptr_t stacks_begin = 0;
size_t stacks_size = 0;

namespace {

constexpr size_t kPage = 4096;
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStack = 256 * 1024;
#else
constexpr size_t kStack = 64 * 1024;
#endif
constexpr size_t kStride = kStack + kPage;  // a page without access below each

char* reserve_stacks() {
  constexpr size_t kBytes = kStride * kMaxThreads;
  void* p = mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw DeviceError("emulator: no address space for the stacks of 1024 threads");
  char* base = static_cast<char*>(p);
  for (int i = 0; i < kMaxThreads; ++i) mprotect(base + i * kStride + kPage, kStack, PROT_READ | PROT_WRITE);
  stacks_begin = reinterpret_cast<uintptr_t>(p);
  stacks_size = kBytes;
  return base;
}

}  // namespace

void prepare(Fiber& fiber, int index, void (*entry)()) {
  // Tops nine cache lines apart modulo a page: at the same place in each page they would share the sets of
  // L1.
  static char* const stacks = reserve_stacks();
  char* bottom = stacks + index * kStride + kPage;
  char* top = bottom + kStack - 64 - (static_cast<size_t>(index) * 576) % kPage;
#ifdef __x86_64__
  void** sp = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t{15}) - 2;
  sp[1] = nullptr;  // where a return address would be
  sp[0] = reinterpret_cast<void*>(entry);
  fiber.stack_pointer = sp;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = bottom;
  fiber.context.uc_stack.ss_size = static_cast<size_t>(top - bottom);
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
#endif
}

}  // namespace lanner::cuda::emulated
