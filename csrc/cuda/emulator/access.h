// Checks of every access that a kernel makes (access.cpp says which).
#pragma once

#include <cstddef>
#include <cstdint>

namespace lanner::cuda::emulated {

enum class Access { read, write, atomic };

// The running thread touches n_bytes at p; `site` is where in the kernel. p must be a multiple of `align`.
void check_access(const void* p, size_t n_bytes, Access access, size_t align, void* site);
// An asynchronous copy to shared memory begins, and has arrived.
void check_copy_begins(const void* shared, void* site);
void check_copy_arrives(const void* shared);

// fence_device() and then an atomic make what the block did before visible to who meets the atomic later.
void publish(const void* atomic);

// Bytes [offset, offset + n) of the arena have a new owner.
void forget_accesses(size_t offset, size_t n_bytes);

}  // namespace lanner::cuda::emulated
