// How many threads are worth having on a machine that others use too.
//
// Threads that work in step wait for the slowest, and one that shares its processor with a busy stranger is
// away for milliseconds at a time. Fewer threads that all run are then faster, so the limit goes down by one
// where waiting costs more than a thread brings, and from time to time one more is tried again. One long
// pause is no such sign: a hypervisor takes a processor away for 10 to 40 ms, on quiet machines too.
#pragma once

#include <limits>
#include <mutex>

namespace lanner {

class ThreadLimit {
 public:
  // What a step of n_wanted threads was like, of which n_came were there when it began. `lost_s` is the time
  // that one thread slept at its barriers, on average over those who did not come last.
  struct StepTimes {
    int n_wanted, n_came;
    double wall_s, lost_s;
  };

  // Threads for a step that may have n_threads: no more than were worth it of late.
  int most(int n_threads, double now_s);

  void note(const StepTimes& step, double now_s);

 private:
  void restart();
  void lower(int n_threads, double now_s);

  std::mutex mutex_;
  int most_ = std::numeric_limits<int>::max();
  double wall_s_ = 0, lost_s_ = 0;     // of late, with `most_` threads
  double worst_s_ = 0, second_s_ = 0;  // the two largest parts of lost_s_ that a step has lost
  double raised_at_s_ = 0, retry_at_s_ = 0, retry_in_s_ = 0;
};

// Processors on which the calling thread may run.
int n_processors();

}  // namespace lanner
