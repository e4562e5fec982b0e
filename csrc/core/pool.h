// The one pool of worker threads of a process. The thread that calls in is worker 0.
//
// Workers spin for a few microseconds while steps follow each other, then sleep on a futex: an idle process
// burns no CPU. A child after fork starts a pool of its own on first use.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "core/places.h"
#include "core/thread_limit.h"
#include "core/wait.h"

namespace lanner {

inline constexpr int kMaxThreads = 255;  // more than share a memory bus; the door counts to 32767

// All n threads, worker 0 .. n-1, arrive before any leaves. The last to arrive runs at_last(), and everything
// that it wrote is seen by all when they leave.
class Barrier {
 public:
  explicit Barrier(int most_threads) : places_(most_threads) {}

  // For n threads from now on. Forgets who has arrived and slept, in a child after fork, where the threads
  // that would follow do not exist. Only while no thread is inside.
  void reset(int n) {
    n_ = n;
    arrived_.store(0, std::memory_order_relaxed);
    lost_ns_.store(0, std::memory_order_relaxed);
    passed_.reset();
  }

  template <class AtLast>
  void wait(int worker, AtLast at_last) {
    const uint32_t round = passed_.count();
    places_.note(worker);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == n_ - 1) {
      at_last();
      arrived_.store(0, std::memory_order_relaxed);
      passed_.raise();
      return;
    }
    const auto passed = [&] { return passed_.count() != round; };
    const auto is_shared = [&] { return places_.are_shared(worker, n_); };
    if (spin_until(passed, kSoon_s, is_shared)) return;
    const double start_s = monotonic_s();
    if (is_shared()) places_.leave(worker, n_);
    passed_.wait(passed, is_shared() ? 0 : kSpin_s);  // who shares cannot arrive before this one sleeps
    lost_ns_.fetch_add(static_cast<int64_t>(1e9 * (monotonic_s() - start_s)), std::memory_order_relaxed);
  }
  void wait(int worker) {
    wait(worker, [] {});
  }

  // A thread begins a task: the others learn where it runs.
  void enter(int worker) { places_.note(worker); }

  // Time since reset() that threads waited for one that was late, the sum over the threads.
  double lost_s() const { return 1e-9 * static_cast<double>(lost_ns_.load(std::memory_order_relaxed)); }

 private:
  // Longer than phases are uneven: a partner that is running arrives within microseconds.
  static constexpr double kSoon_s = 50e-6;
  // To wake up takes a thread 50 to 100 us where an idle processor must be fetched back from a hypervisor.
  static constexpr double kSpin_s = 200e-6;

  int n_ = 1;
  Places places_;
  alignas(64) std::atomic<int> arrived_{0};
  Signal passed_;
  alignas(64) std::atomic<int64_t> lost_ns_{0};
};

class Pool {
 public:
  // The pool of this process; a forked child gets a new one.
  static Pool& get();

  // Calls task(worker) for worker 0 .. n_threads-1 and returns when all have returned: they may wait for each
  // other inside. Worker 0 is the caller. Callers take turns. What a
  // task throws reaches the caller once all have returned, but nobody waits at a barrier for who threw.
  void run(int n_threads, const std::function<void(int)>& task);

  // The same with those that come within patience_s, worker 0 .. n-1: begin(n) on the caller, then
  // task(worker) on each. To wait longer for a thread that gets no processor costs more than it brings.
  void gather(int n_threads, double patience_s, const std::function<void(int)>& begin,
              const std::function<void(int)>& task);

  // The same for work that the threads take from a common store until none is left: returns when the caller
  // and those who came have returned. A worker that wakes up later finds the door closed; nobody waits for
  // it.
  void offer(int n_threads, const std::function<void(int)>& task);

  // For independent items: the threads take them in order until none is left.
  void for_each(int n_threads, int64_t n_items, const std::function<void(int64_t)>& item);

  // How many threads a step should have.
  ThreadLimit& limit() { return limit_; }

 private:
  struct Shared;

  Pool() = default;
  void grow(int n_workers);
  void start(int n_threads, const std::function<void(int)>& task, bool gathers);
  void finish();

  std::mutex turn_;                 // one task at a time
  std::shared_ptr<Shared> shared_;  // outlives the pool in workers that sleep at exit
  int n_workers_ = 0;
  ThreadLimit limit_;
};

}  // namespace lanner
