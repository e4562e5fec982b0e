#include "core/background.h"

#include <system_error>
#include <utility>

namespace lanner {

Background::~Background() {
  Lock lock(mutex_);
  tasks_.clear();
  end_threads(lock);
}

void Background::end_threads(Lock& lock) {
  is_over_ = true;
  lock.unlock();
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  lock.lock();
  is_over_ = false;
}

void Background::add(std::function<void()> task) {
  Lock lock(mutex_);
  tasks_.push_back(std::move(task));
  if (threads_.size() + 1 < static_cast<size_t>(n_threads_) && threads_.size() < tasks_.size()) {
    try {
      threads_.emplace_back([this] { work(); });
    } catch (const std::system_error&) {
      // The system gives no more threads: the others, or finish(), do its part.
    }
  }
  changed_.notify_one();
}

void Background::run_next(Lock& lock) {
  const std::function<void()> task = std::move(tasks_.front());
  tasks_.pop_front();
  ++n_running_;
  lock.unlock();
  std::exception_ptr error;
  try {
    task();
  } catch (...) {
    error = std::current_exception();
  }
  lock.lock();
  --n_running_;
  if (error && !error_) error_ = error;
  if (n_running_ == 0 && tasks_.empty()) changed_.notify_all();
}

void Background::work() {
  Lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return is_over_ || !tasks_.empty(); });
    if (is_over_) return;
    run_next(lock);
  }
}

void Background::finish() {
  Lock lock(mutex_);
  while (!tasks_.empty()) run_next(lock);
  changed_.wait(lock, [this] { return n_running_ == 0; });
  end_threads(lock);
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

}  // namespace lanner
