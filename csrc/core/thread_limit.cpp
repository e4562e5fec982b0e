#include "core/thread_limit.h"

#include <algorithm>
#include <thread>

#ifdef __linux__
#include <sched.h>
#endif

namespace lanner {

namespace {

// Several turns of a thread that shares its processor, which last 3 to 4 ms each.
constexpr double kWindow_s = 0.04;

// The most by which one step may stand out from the others of late and be forgiven: a hypervisor's time slice
// is no longer. Who is on trial is forgiven nothing, for as long as it takes to see what it brings.
constexpr double kPause_s = 0.04, kTrial_s = 3 * kWindow_s;

// One more thread is tried after the first of these, and when it was in vain after twice the time, up to the
// last: a try costs about half a window, so a hopeless one 2 % of the time.
constexpr double kFirstRetry_s = 0.05, kLastRetry_s = 1;

// A thread less makes a step longer by 1/(n - 1) of its time at most, which it wins back where 1/n is lost.
// Two thirds of that: bandwidth makes the last thread bring less than its share.
double most_lost(int n_threads) { return 2.0 / 3 / n_threads; }

}  // namespace

int n_processors() {
#ifdef __linux__
  cpu_set_t set;  // of 1024 processors; where there are more, the call fails and all count
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int ThreadLimit::most(int n_threads, double now_s) {
  std::lock_guard lock(mutex_);
  if (most_ < n_threads && now_s >= retry_at_s_) {
    ++most_;
    raised_at_s_ = now_s, retry_at_s_ = now_s + retry_in_s_;
    restart();
  }
  return std::min(n_threads, most_);
}

void ThreadLimit::note(const StepTimes& step, double now_s) {
  std::lock_guard lock(mutex_);
  if (step.n_wanted > most_) return;
  wall_s_ += step.wall_s;
  // A thread that did not come cost little, but brought nothing either.
  const double lost_s = step.lost_s + step.wall_s * (step.n_wanted - step.n_came) / step.n_wanted;
  lost_s_ += lost_s;
  second_s_ = std::clamp(lost_s, second_s_, worst_s_), worst_s_ = std::max(worst_s_, lost_s);
  const bool is_on_trial = now_s - step.wall_s - raised_at_s_ <= kTrial_s;
  const double forgiven_s = is_on_trial ? 0 : std::min(worst_s_ - second_s_, kPause_s);
  if (lost_s_ - forgiven_s > most_lost(step.n_wanted) * std::max(wall_s_, kWindow_s))
    lower(step.n_wanted - 1, now_s);
  else if (wall_s_ > kWindow_s)
    wall_s_ /= 2, lost_s_ /= 2, worst_s_ /= 2, second_s_ /= 2;
}

void ThreadLimit::restart() { wall_s_ = lost_s_ = worst_s_ = second_s_ = 0; }

void ThreadLimit::lower(int n_threads, double now_s) {
  const bool was_in_vain = retry_in_s_ > 0 && now_s - raised_at_s_ < std::max(retry_in_s_, kTrial_s);
  retry_in_s_ = was_in_vain ? std::min(2 * retry_in_s_, kLastRetry_s) : kFirstRetry_s;
  retry_at_s_ = now_s + retry_in_s_;
  most_ = n_threads;
  restart();
}

}  // namespace lanner
