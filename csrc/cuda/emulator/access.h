// Checks of every access that a kernel makes: to bytes that exist, aligned, written before they are read, and
// ordered against the accesses of all other threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lanner::cuda::emulated {

// The last two are not the thread's own, but of the unit that it told to copy or multiply
// (cuda/device_sm90.h).
enum class Access { read, write, atomic, tensor_read, tensor_write };
inline bool writes(Access access) { return access != Access::read && access != Access::tensor_read; }

// The running thread touches n_bytes at p; `site` is where in the kernel. p must be a multiple of `align`.
void check_access(const void* p, size_t n_bytes, Access access, size_t align, void* site);
// An asynchronous copy of the running thread to 16 bytes of shared memory begins, and has arrived.
void check_copy_begins(const void* shared, void* site);
void check_copy_arrives(const void* shared, void* site);
// The same of tensor copies, and the reads of a multiplication that begins and has ended.
void check_tensor_copy_begins(const void* shared, size_t n_bytes, void* site);
void check_tensor_copy_arrives(const void* shared, size_t n_bytes);
void check_tensor_read_begins(const void* shared, size_t n_bytes, void* site);
void check_tensor_read_ends(const void* shared, size_t n_bytes, void* site);

// What the running thread knows becomes known to those who meet it: fence_device(), then an atomic on the
// location.
void remember_fence();
void meet_at_atomic(const void* p);
void begin_launch_checks();

// Bytes of the arena have a new owner.
void forget_accesses(size_t offset, size_t n_bytes);

}  // namespace lanner::cuda::emulated
