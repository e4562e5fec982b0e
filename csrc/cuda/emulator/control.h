// What tests set of the emulation, and what they ask it. Times and launches are of the whole process.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace lanner::cuda::emulated {

// Which of the fibers that can go on is next, and in which order the blocks run.
enum class Order { forward, reverse, random };
// When an asynchronous copy arrives: at the last moment the rules allow, or at once. Each hides mistakes the
// other shows.
enum class Delivery { lazy, eager };

struct Configuration {
  Order order = Order::forward;
  uint64_t seed = 0;
  Delivery copies = Delivery::lazy;         // copy_async16
  Delivery tensor_copies = Delivery::lazy;  // TMA
  Delivery wgmma = Delivery::lazy;
  bool checks = true;        // of every access of kernels
  bool count_banks = false;  // shared memory wavefronts
  int sm_version = 80;
  int n_sms = 4;
};
void configure(const Configuration& configuration);
const Configuration& configuration();

// What was wrong since the last call. kind:
//   bounds, misaligned, index (of an array), shift, host memory
//   unwritten, pending (a copy to the bytes was not waited for)
//   race (of two threads of a block), blocks (of two blocks), ahead (before wait_for_kernel_ahead)
//   divergent, deadlock, arrivals (more than a barrier expects)
//   proxy (a fence is missing before a tensor copy or wgmma), wgmma (no wgmma_fence, or d touched under way)
struct Violation {
  std::string kind;
  std::string message;
};
std::vector<Violation> report();
std::map<std::string, int64_t> counters();  // since the last call

// Launches go to `interpreter` instead of the fibers; null: no longer.
struct RecordedLaunch {
  std::string symbol;  // mangled name of the kernel
  int grid[3];
  int n_threads;
  size_t shared_bytes;
  std::vector<std::string> params;  // raw bytes
};
using Interpreter = std::function<void(const RecordedLaunch&)>;
void set_interpreter(Interpreter interpreter);

std::vector<std::pair<uintptr_t, size_t>> allocations();
// Fills with 0xff and lets kernels that read it before they write it be reported.
void mark_unwritten(void* device, size_t n_bytes);
// Bytes that something other than a kernel or the runtime has written.
void mark_written(void* device, size_t n_bytes);

}  // namespace lanner::cuda::emulated
