// Anonymous memory: page-aligned, zero when first touched, given back when the owner goes.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <utility>

#include "core/check.h"

namespace lanner {

class Memory {
 public:
  Memory() = default;
  // Reserves address space; pages become resident when they are first written.
  explicit Memory(size_t n_bytes) : n_bytes_(n_bytes) {
    if (n_bytes == 0) return;
    void* p =
        mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw OutOfMemoryBudget(cat("memory: the system refused ", n_bytes, " bytes"));
    data_ = static_cast<std::byte*>(p);
  }
  Memory(Memory&& other) noexcept { swap(other); }
  Memory& operator=(Memory&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Memory() {
    if (data_) munmap(data_, n_bytes_);
  }

  // Asks for 2 MB pages: a streamed weight then costs one TLB entry where 4 KB pages cost 512.
  void advise_huge() {
    if (data_) madvise(data_, n_bytes_, MADV_HUGEPAGE);
  }

  std::byte* data() const { return data_; }
  size_t n_bytes() const { return n_bytes_; }

 private:
  void swap(Memory& other) {
    std::swap(data_, other.data_);
    std::swap(n_bytes_, other.n_bytes_);
  }

  std::byte* data_ = nullptr;
  size_t n_bytes_ = 0;
};

constexpr size_t round_up(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace lanner
