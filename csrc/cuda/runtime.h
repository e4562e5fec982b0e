// What the host does with a GPU: memory, copies, launches, graphs. One interface, two sides: ptx/runtime.cpp
// over CUDA's runtime, emulator/runtime.cpp on the CPU. Errors are DeviceErrors that name the call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/check.h"
#include "cuda/device.h"

namespace lanner::cuda {

struct DeviceInfo {
  std::string name;
  int sm_version;  // 80 for compute capability 8.0
  int n_sms;
  int shared_bytes_per_block;  // that a kernel may ask for
  size_t n_bytes;              // of memory
};

// The first device. Throws DeviceError that says what is missing: driver, device, or support of this build
// for it.
const DeviceInfo& device_info();
size_t free_bytes();  // of its memory, now

using Stream = void*;  // nullptr: the default stream

void* allocate(size_t n_bytes);  // aligned to 256 bytes, zeroed
void release(void* p) noexcept;
void* allocate_host(size_t n_bytes);  // memory of the host that copies reach without a detour
void release_host(void* p) noexcept;
void copy_to_device(void* device, const void* host, size_t n_bytes, Stream stream);
void copy_to_host(void* host, const void* device, size_t n_bytes, Stream stream);  // returns when it is there
void copy_on_device(void* to, const void* from, size_t n_bytes, Stream stream);
void fill(void* device, uint8_t byte, size_t n_bytes, Stream stream);
Stream create_stream();
void destroy(Stream stream) noexcept;
void synchronize(Stream stream);

// Launches between begin_capture and end_capture are recorded with their parameters, not run.
struct Graph;
void begin_capture(Stream stream);
Graph* end_capture(Stream stream);
void abandon_capture(Stream stream) noexcept;
void launch(const Graph* graph, Stream stream);
void destroy(Graph* graph) noexcept;

// Times of a stream.
using Event = void*;
Event create_event();
void destroy_event(Event event) noexcept;
void record(Event event, Stream stream);
float milliseconds_between(Event first, Event second);  // waits for the second

struct Grid {
  int x = 1, y = 1, z = 1;
};
struct LaunchShape {
  Grid grid;
  int n_threads;            // of a block
  size_t shared_bytes = 0;  // of a block
  bool overlaps = false;    // the kernel calls wait_for_kernel_ahead()
};

void launch_kernel(const void* kernel, const LaunchShape& shape, Stream stream, void** params,
                   const size_t* param_bytes, size_t n_params);
int blocks_per_sm(const void* kernel, int n_threads, size_t shared_bytes);

// kernel<<<shape>>>(params...); nothing where the grid has no blocks. The kernel's parameter types are the
// ones that count: params convert to them.
template <class... Params>
void launch(void (*kernel)(Params...), const LaunchShape& shape, Stream stream, const Params&... params);

}  // namespace lanner::cuda

#ifdef LANNER_CUDA_EMULATED
#include "cuda/emulator/launch.h"
#elif defined(__CUDACC__)
namespace lanner::cuda {
template <class... Params>
void launch(void (*kernel)(Params...), const LaunchShape& shape, Stream stream, const Params&... params) {
  const void* pointers[] = {&params...};
  const size_t n_bytes[] = {sizeof(Params)...};
  launch_kernel(reinterpret_cast<const void*>(kernel), shape, stream, const_cast<void**>(pointers), n_bytes,
                sizeof...(Params));
}
}  // namespace lanner::cuda
#endif
