// The one pool of worker threads of a process. The thread that calls run() is worker 0.
//
// Workers spin for a few microseconds while steps follow each other, then yield, then sleep on a futex: an
// idle process burns no CPU. A child after fork starts a pool of its own on first use.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace lanner {

inline constexpr int kMaxThreads = 255;  // more than share a memory bus; the door counts to 32767

// Tells the core that this is a wait, without giving up the time slice.
inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// All n threads arrive before any leaves. The last to arrive runs at_last(), and everything that it wrote is
// seen by all when they leave.
class Barrier {
 public:
  explicit Barrier(int n) : n_(n) {}

  // Forgets who has arrived: in a child after fork, where the threads that would follow do not exist. Only
  // while no thread is inside.
  void reset() { arrived_.store(0, std::memory_order_relaxed); }

  template <class AtLast>
  void wait(AtLast at_last) {
    const uint32_t round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == n_ - 1) {
      at_last();
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    // A partner that is running arrives within microseconds; one that lost its processor needs ours.
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins)
      spins < kSpins ? pause_cpu() : std::this_thread::yield();
  }
  void wait() {
    wait([] {});
  }

 private:
  static constexpr int kSpins = 1000;  // about 15 us of pauses, longer than phases are uneven

  const int n_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> round_{0};
};

class Pool {
 public:
  // The pool of this process; a forked child gets a new one.
  static Pool& get();

  // Calls task(worker) for worker 0 .. n_threads-1 and returns when all have returned: they may wait for each
  // other inside. Worker 0 is the caller. Callers take turns. What a
  // task throws reaches the caller once all have returned, but nobody waits at a barrier for who threw.
  void run(int n_threads, const std::function<void(int)>& task);

  // The same for work that the threads take from a common store until none is left: returns when the caller
  // and those who came have returned. A worker that wakes up later finds the door closed; nobody waits for
  // it.
  void offer(int n_threads, const std::function<void(int)>& task);

  // For independent items: the threads take them in order until none is left.
  void for_each(int n_threads, int64_t n_items, const std::function<void(int64_t)>& item);

 private:
  struct Shared;

  Pool() = default;
  void grow(int n_workers);
  void start(int n_threads, const std::function<void(int)>& task);
  void finish();

  std::mutex turn_;                 // one task at a time
  std::shared_ptr<Shared> shared_;  // outlives the pool in workers that sleep at exit
  int n_workers_ = 0;
};

}  // namespace lanner
