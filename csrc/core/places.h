// Where threads that work together run, and how one gets out of the others' way.
//
// A system may wake a thread on the processor of the one that woke it while another is idle: Linux stops
// looking for an idle one where two share a cache and more than half of them is busy. Two threads that meet
// every 40 us then take turns on one processor, for seconds, because neither is ever seen to wait for long.
#pragma once

#include <atomic>
#include <memory>

namespace lanner {

// Where the calling thread runs, a few nanoseconds; -1 where the system does not tell.
int current_processor();

class Places {
 public:
  explicit Places(int most_threads) : places_(new Place[static_cast<size_t>(most_threads)]) {}

  // Notes where the caller, thread i, is.
  void note(int i) {
    const int processor = current_processor();
    std::atomic<int>& known = places_[i].processor;
    if (known.load(std::memory_order_relaxed) != processor) known.store(processor, std::memory_order_relaxed);
  }

  // Whether one of threads 0 .. n-1 was last seen where the caller is, thread `self` or none of them (-1).
  bool are_shared(int self, int n) const;

  // Moves the caller to a processor that it may use and where none of the others was seen, if there is one.
  // Afterwards it may use the same processors as before, named one by one: of those that its cpuset gains
  // later it learns nothing.
  void leave(int self, int n);

 private:
  struct alignas(64) Place {
    std::atomic<int> processor{-1};
  };
  const std::unique_ptr<Place[]> places_;
};

}  // namespace lanner
