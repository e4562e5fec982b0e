// Checks of every access that a kernel makes: to bytes that exist, aligned, written before they are read, and
// ordered against the accesses of all other threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lanner::cuda::emulated {

enum class Access { read, write, atomic };

// The running thread touches n_bytes at p; `site` is where in the kernel. p must be a multiple of `align`.
void check_access(const void* p, size_t n_bytes, Access access, size_t align, void* site);
// An asynchronous copy of the running thread to 16 bytes of shared memory begins, and has arrived.
void check_copy_begins(const void* shared, void* site);
void check_copy_arrives(const void* shared, void* site);

// What the running thread knows becomes known to those who meet it: fence_device(), then an atomic on the
// location.
void remember_fence();
void meet_at_atomic(const void* p);
void begin_launch_checks();

// Bytes of the arena have a new owner.
void forget_accesses(size_t offset, size_t n_bytes);

}  // namespace lanner::cuda::emulated
