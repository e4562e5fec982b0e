// Anonymous memory: page-aligned, zero when first touched, given back when the owner goes.
#pragma once

#include <sys/mman.h>

#include <algorithm>
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

constexpr size_t round_up(size_t n, size_t multiple);

// One reservation that many weights share, each behind the other: pages of 2 MB serve weights that are
// smaller than one, and a fault brings 512 times as much as one of 4 KB. Not for several threads at once.
class Arena {
 public:
  explicit Arena(size_t n_bytes) : memory_(n_bytes + kHugePage) {
    const auto start = reinterpret_cast<size_t>(memory_.data());
    used_ = round_up(start, kHugePage) - start;
    memory_.advise_huge();
  }

  // nullptr where the reservation is used up.
  std::byte* take(size_t n_bytes) {
    if (n_bytes > memory_.n_bytes() - used_) return nullptr;
    std::byte* at = memory_.data() + used_;
    used_ += std::min(round_up(n_bytes, 64), memory_.n_bytes() - used_);
    return at;
  }

 private:
  static constexpr size_t kHugePage = size_t{2} << 20;

  Memory memory_;
  size_t used_ = 0;
};

constexpr size_t round_up(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace lanner
