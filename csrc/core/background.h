// Tasks that threads of their own begin at once, while who gave them goes on with something else.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace lanner {

class Background {
 public:
  // n_threads counts whoever calls finish(): with one, it does all of the work.
  explicit Background(int n_threads) : n_threads_(n_threads) {}
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;
  // Drops what has not begun and waits for the rest.
  ~Background();

  // Tasks begin in the order in which they come. One thread at a time adds and finishes.
  void add(std::function<void()> task);

  // Takes part until all tasks are done, ends the threads, so that a fork later on finds none, and throws
  // what the first task threw that failed.
  void finish();

 private:
  using Lock = std::unique_lock<std::mutex>;

  void work();
  void run_next(Lock& lock);
  void end_threads(Lock& lock);

  const int n_threads_;
  std::mutex mutex_;  // guards all that follows
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  std::vector<std::thread> threads_;
  int n_running_ = 0;
  bool is_over_ = false;
  std::exception_ptr error_;
};

}  // namespace lanner
