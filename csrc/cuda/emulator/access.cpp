#include "cuda/emulator/access.h"

namespace lanner::cuda::emulated {
void check_access(const void*, size_t, Access, size_t, void*) {}
void check_copy_begins(const void*, void*) {}
void check_copy_arrives(const void*) {}
void publish(const void*) {}
void forget_accesses(size_t, size_t) {}
}  // namespace lanner::cuda::emulated
