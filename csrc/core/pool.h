// The one pool of worker threads of a process. The thread that calls run() is worker 0.
//
// Workers spin for a few microseconds while steps follow each other, then sleep on a futex: an idle process
// burns no CPU. A child after fork starts a pool of its own on first use.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "core/wait.h"

namespace lanner {

inline constexpr int kMaxThreads = 255;  // more than share a memory bus; the door counts to 32767

// All n threads arrive before any leaves. The last to arrive runs at_last(), and everything that it wrote is
// seen by all when they leave.
class Barrier {
 public:
  explicit Barrier(int n) : n_(n) {}

  // Forgets who has arrived: in a child after fork, where the threads that would follow do not exist. Only
  // while no thread is inside.
  void reset() {
    arrived_.store(0, std::memory_order_relaxed);
    passed_.reset();
  }

  template <class AtLast>
  void wait(AtLast at_last) {
    const uint32_t round = passed_.count();
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == n_ - 1) {
      at_last();
      arrived_.store(0, std::memory_order_relaxed);
      passed_.raise();
      return;
    }
    passed_.wait([&] { return passed_.count() != round; }, kSpin_s);
  }
  void wait() {
    wait([] {});
  }

 private:
  // Longer than phases are uneven: a partner that is running arrives within microseconds.
  static constexpr double kSpin_s = 20e-6;

  const int n_;
  alignas(64) std::atomic<int> arrived_{0};
  Signal passed_;
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
