// Fibers: stacks between which one thread of the CPU switches.
#pragma once

#include <cstddef>
#include <cstdint>

#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace lanner::cuda::emulated {

// A stopped stack.
struct Fiber {
#ifdef __x86_64__
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
};

inline constexpr int kMaxThreads = 1024;  // of a block

// Makes `fiber` one that calls entry on stack number `index`; entry never returns.
void prepare(Fiber& fiber, int index, void (*entry)());

// Where the stacks are: addresses of a kernel's own variables.
extern uintptr_t stacks_begin;
extern size_t stacks_size;  // 0 before the first prepare()
inline bool is_on_stack(const void* p) { return reinterpret_cast<uintptr_t>(p) - stacks_begin < stacks_size; }

// Stops here, as `from`, and goes on with `to`.
#ifdef __x86_64__
// A jump, not a return: the processor's guesses of return addresses stay right, because all fibers of a block
// are equally deep in the same calls. The 128 bytes below the stack pointer may be in use (System V ABI).
__attribute__((always_inline)) inline void switch_fibers(Fiber& from, Fiber& to) {
  void** save = &from.stack_pointer;
  void* next = to.stack_pointer;
  asm volatile(
      "leaq -128(%%rsp), %%rsp\n\t"
      "pushq %%rbp\n\t"
      "leaq 1f(%%rip), %%rax\n\t"
      "pushq %%rax\n\t"
      "movq %%rsp, (%0)\n\t"
      "movq %1, %%rsp\n\t"
      "popq %%rax\n\t"
      "jmp *%%rax\n"
      "1:\n\t"
      "popq %%rbp\n\t"
      "leaq 128(%%rsp), %%rsp"
      : "+D"(save), "+S"(next)
      :
      : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0", "xmm1",
        "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
        "xmm14", "xmm15", "memory", "cc");
}
#else
inline void switch_fibers(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }
#endif

}  // namespace lanner::cuda::emulated
