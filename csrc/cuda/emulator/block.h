// A block of threads that runs: its fibers, which of them can go on, and where the others wait.
//
// One thread of the CPU runs one block after the other. A fiber runs until an operation in which threads
// meet; the next one is chosen by the configured order. Threads meet by rendezvous: each leaves its arguments
// and stops, the last one does the work of all.
#pragma once

#include <cstdint>
#include <deque>
#include <exception>
#include <string>
#include <vector>

#include "cuda/emulator/clock.h"
#include "cuda/emulator/control.h"
#include "cuda/emulator/fiber.h"
#include "cuda/runtime.h"

namespace lanner::cuda::emulated {

struct Copy {
  void* shared;
  const void* global;  // nullptr: zeros
  void* site;
};

struct Thread {
  Fiber fiber;
  int index;
  Clock clock;
  const char* waits_in = nullptr;  // the operation, nullptr while it can run
  void* site = nullptr;            // of that operation in the kernel
  bool done = false;
  bool waited_for_kernel_ahead = false;
  Snapshot fence;                        // what it knew at its last fence_device()
  uint32_t proxy_fence = 0;              // time of its last fence_async_proxy()
  std::deque<std::vector<Copy>> groups;  // of asynchronous copies, the last one open
};

// What 32 lanes do together: run(arguments of the lanes).
struct Collective {
  const char* name;
  void (*run)(void* const* lanes);
};

struct Warp {
  uint32_t runnable;  // bit per lane
  uint32_t arrived;   // at the collective
  const Collective* collective;
  void* lanes[kWarpSize];
  void* first_site;  // of the lane that came first
};

struct Meeting {
  int n_arrived = 0;
  int n_threads = 0;  // that the first one said
  std::vector<Thread*> waiting;
};

inline constexpr int kBarriers = 16;

struct Block {
  int index[3], grid[3];
  int n_threads = 0;
  size_t shared_bytes = 0;
  uint32_t serial;        // of blocks, over all launches; from 1
  uint32_t first_serial;  // of this launch
  uint32_t chain_serial;  // first block of the kernels that may still run: those ahead if the launch overlaps
  std::string kernel;     // its name
  Thread* running = nullptr;
  Thread threads[kMaxThreads];
  Warp warps[kMaxThreads / kWarpSize];
  Meeting barriers[kBarriers];

  // The kernel with its parameters, called by each fiber.
  void (*invoke)(const void* kernel, const void* const* params);
  const void* kernel_address;
  const void* const* params;

  Fiber host;
  std::exception_ptr failure;

  void run();
  // The running thread stops until `wake` lets it go on; another one runs.
  void stop(const char* operation, void* site);
  void wake(Thread& thread);
  // The running thread can go on, but others may be chosen before.
  void yield();
  // Ends the launch with an error; the fibers are never continued.
  [[noreturn]] void fail(const std::string& message);
  void finish_thread();  // the running one; does not return

  Warp& warp() { return warps[running->index / kWarpSize]; }
  int lane() const { return running->index % kWarpSize; }
  std::string place(const Thread& thread) const;  // "thread 3 of block (0, 0, 0)"

 private:
  Thread* choose();
  void go_to(Thread* next);
  std::string waits() const;
};

extern Block block;  // the one there is

// The running lane brings `arguments`; returns after `collective` was done for all lanes of the warp.
void meet(const Collective& collective, void* arguments, void* site);
// Lets `n_threads` of the block meet at barrier `id`; what they did before is ordered before what they do
// after.
void meet_at_barrier(int id, int n_threads, const char* operation, void* site);

// What each of the threads did before is ordered before what each does after.
void join_clocks(Thread* const* threads, int n);

void seed_schedule(uint64_t seed);
uint64_t random_below(uint64_t n);

// Gives asynchronous copies that a deadlock waits for a last chance; false if there are none.
bool deliver_late_copies();

}  // namespace lanner::cuda::emulated
