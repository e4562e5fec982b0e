// What the functions on NumPy arrays share: how many threads they use.
#pragma once

#include "bind/bind.h"

namespace lanner {

// Threads for about n_operations of arithmetic or bytes moved, whichever is more: one below kAloneOperations,
// where waking a thread (about 5 us when it sleeps) costs more than it saves.
inline constexpr int64_t kAloneOperations = 1 << 16;
int array_threads(int64_t n_operations);

}  // namespace lanner
