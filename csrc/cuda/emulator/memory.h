// Device memory: one range of addresses, in it the shared memory of the running block and all allocations,
// between them bytes that belong to nobody. Beside it one byte of state for each of its bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace lanner::cuda::emulated {

inline constexpr size_t kSharedBytes = 256 * 1024;  // most that any block may ask for, more or less

enum State : uint8_t { kNobodys = 0, kUnwritten, kWritten, kPending };  // pending: a copy to it is under way

struct Arena {
  char* base = nullptr;
  size_t n_bytes = 0;
  uint8_t* state = nullptr;  // n_bytes
  char* shared = nullptr;    // aligned to 1024 bytes and to no more

  bool holds(const void* p) const { return offset(p) < n_bytes; }
  size_t offset(const void* p) const { return static_cast<size_t>(static_cast<const char*>(p) - base); }
  bool is_shared(const void* p) const {
    return static_cast<size_t>(static_cast<const char*>(p) - shared) < kSharedBytes;
  }
};
extern Arena arena;  // reserved by the first call of reserve_arena()
void reserve_arena();

// Shared memory of a new block: n_bytes, unwritten, 0xff.
void poison_shared(size_t n_bytes);
size_t n_allocated_bytes();
std::string name_global(const void* p);  // "at +256 of the 1024 bytes at 0x..."
std::string name_bytes(const void* p);   // shared memory too
// Throws DeviceError that names `call` unless the bytes lie in one allocation.
void check_allocated(const char* call, const void* device, size_t n_bytes);
void* reserve_bytes(size_t n_bytes);  // of address space, zero when touched

}  // namespace lanner::cuda::emulated
