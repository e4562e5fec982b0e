// Which accesses are ordered: between two threads that touch the same bytes, one of them writing, there must
// be a barrier that both passed, and between two blocks a fence and an atomic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "cuda/emulator/access.h"

namespace lanner::cuda::emulated {

struct Conflict {
  const char* kind = nullptr;  // of violation, control.h; null: none
  std::string with;            // "; thread 7 wrote them (softmax.cuh:30), no barrier between"
};

// Records the access of the running thread.
Conflict order_access(const void* p, size_t n_bytes, Access access, void* site);
// Does not record it.
Conflict check_order(const void* p, size_t n_bytes, Access access);

}  // namespace lanner::cuda::emulated
