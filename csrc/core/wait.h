// How a thread waits for another: it spins for as long as a partner that runs needs, then sleeps.
//
// It never yields. Beside a busy thread of someone else a yield is a gift of that thread's whole time slice,
// several milliseconds, while who sleeps is back as soon as it is woken. And who spins on takes the processor
// from the very thread that it waits for, where the two share one.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>
#include <limits>

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace lanner {

// Tells the core that this is a wait, without giving up the time slice.
inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

inline constexpr double kForever = std::numeric_limits<double>::infinity();

// Seconds of the monotonic clock, that of Python's time.perf_counter on Linux.
inline double monotonic_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// True once done() is; false when that took longer than `most_s`, or when in_vain() is true.
template <class Done, class InVain>
bool spin_until(Done done, double most_s, InVain in_vain) {
  double end = 0;
  for (;;) {
    for (int i = 0; i < 64; ++i) {  // a look at the clock costs as much as a pause
      if (done()) return true;
      pause_cpu();
    }
    const double now = monotonic_s();
    if (end == 0) end = now + most_s;
    if (now > end || in_vain()) return done();
  }
}
template <class Done>
bool spin_until(Done done, double most_s) {
  return spin_until(done, most_s, [] { return false; });
}

// Sleeps until someone calls wake() on the word, or not at all if it does not hold `value`. May return early.
// std::atomic::wait would yield before it sleeps.
inline void sleep_while(std::atomic<uint32_t>& word, uint32_t value) {
#ifdef __linux__
  static_assert(sizeof(word) == sizeof(uint32_t));
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
#else
  word.wait(value, std::memory_order_acquire);
#endif
}

// Wakes up to n threads that sleep on the word.
inline void wake(std::atomic<uint32_t>& word, int n) {
#ifdef __linux__
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, n, nullptr, nullptr, 0);
#else
  n == 1 ? word.notify_one() : word.notify_all();
#endif
}

// What threads wait for: a count of events. Raising it costs no system call while nobody sleeps.
class alignas(64) Signal {
 public:
  uint32_t count() const { return count_.load(std::memory_order_acquire); }
  bool has_sleepers() const { return n_sleeping_.load(std::memory_order_relaxed) > 0; }

  // What done() of a waiter looks at was written before. Wakes up to n_threads of those that sleep.
  void raise(int n_threads = INT_MAX) {
    // Either this sees the sleeper, or the sleeper sees the new count: hence the one order of all four.
    count_.fetch_add(1, std::memory_order_seq_cst);
    const int n = std::min(n_threads, n_sleeping_.load(std::memory_order_seq_cst));
    if (n > 0) wake(count_, n);
  }
  // The same where n_threads of n_all are wanted, and those that are awake see it anyway.
  void raise_among(int n_threads, int n_all) {
    count_.fetch_add(1, std::memory_order_seq_cst);  // before it looks who sleeps, as above
    const int n = n_threads - (n_all - n_sleeping_.load(std::memory_order_seq_cst));
    if (n > 0) wake(count_, n);
  }

  // Returns once done(), which only a raise() makes true; whether it had to sleep.
  template <class Done>
  bool wait(Done done, double spin_s) {
    if (spin_until(done, spin_s)) return false;
    n_sleeping_.fetch_add(1, std::memory_order_seq_cst);
    for (;;) {
      const uint32_t seen = count_.load(std::memory_order_seq_cst);
      if (done()) break;
      sleep_while(count_, seen);
    }
    n_sleeping_.fetch_sub(1, std::memory_order_relaxed);
    return true;
  }

  // In a child after fork, where nobody sleeps.
  void reset() { n_sleeping_.store(0, std::memory_order_relaxed); }

 private:
  std::atomic<uint32_t> count_{0};
  std::atomic<int> n_sleeping_{0};
};

}  // namespace lanner
