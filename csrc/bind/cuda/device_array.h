#pragma once

#include <cstddef>

#include "cuda/runtime.h"

namespace lanner::cuda {

struct DeviceArray {
  explicit DeviceArray(size_t n) : n_bytes(n), data_(allocate(n)) {}
  ~DeviceArray() { release(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  std::byte* data() const { return static_cast<std::byte*>(data_); }
  const size_t n_bytes;

 private:
  void* data_;
};

inline void check_range(const DeviceArray& a, size_t offset, size_t n_bytes) {
  check(offset <= a.n_bytes && n_bytes <= a.n_bytes - offset, "DeviceArray: ", n_bytes, " bytes at ", offset,
        " lie outside the array of ", a.n_bytes);
}

}  // namespace lanner::cuda
