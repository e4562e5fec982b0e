// Vector clocks: which steps of which threads of the block are known to have happened before a thread's next
// step.
//
// A thread knows its own time exactly, and of the others what the last barrier told it. That part is a
// snapshot shared by all who met there: never changed, counted.
#pragma once

#include <cstdint>
#include <vector>

namespace lanner::cuda::emulated {

class Snapshot {  // a counted pointer to times of all threads of the block; null knows nothing
 public:
  Snapshot() = default;
  Snapshot(const Snapshot& other) : times_(other.times_) {
    if (times_) ++times_->n_owners;
  }
  Snapshot& operator=(const Snapshot& other) {
    Snapshot copy(other);
    Times* mine = times_;
    times_ = copy.times_;
    copy.times_ = mine;
    return *this;
  }
  ~Snapshot() {
    if (times_ && --times_->n_owners == 0) delete times_;
  }
  uint32_t operator[](int thread) const { return times_ ? times_->at[thread] : 0; }
  bool operator==(const Snapshot& other) const { return times_ == other.times_; }
  explicit operator bool() const { return times_; }
  int size() const { return times_ ? static_cast<int>(times_->at.size()) : 0; }

  // A new one that knows nothing yet, and may be changed until it is shared.
  static Snapshot make(int n_threads) {
    Snapshot s;
    s.times_ = new Times{1, std::vector<uint32_t>(static_cast<size_t>(n_threads), 0)};
    return s;
  }
  uint32_t* data() { return times_->at.data(); }
  void learn(const Snapshot& other) {
    if (!other.times_) return;
    uint32_t* mine = data();
    const uint32_t* its = other.times_->at.data();
    for (int i = 0, n = size(); i < n; ++i) mine[i] = its[i] > mine[i] ? its[i] : mine[i];
  }
  void learn(int thread, uint32_t time) {
    if (data()[thread] < time) data()[thread] = time;
  }

 private:
  struct Times {
    int n_owners;
    std::vector<uint32_t> at;
  };
  Times* times_ = nullptr;
};

struct Clock {
  uint32_t now = 1;
  Snapshot others;
  bool knows(int self, int thread, uint32_t time) const { return thread == self || others[thread] >= time; }
};

}  // namespace lanner::cuda::emulated
