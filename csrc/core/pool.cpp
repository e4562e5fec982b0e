#include "core/pool.h"

#include <pthread.h>

#include <algorithm>
#include <exception>
#include <new>
#include <thread>
#include <utility>

namespace lanner {

// State that workers poll. It is never freed: detached workers may look at it while the process exits.
struct Pool::Shared {
  // Bit 0 to 14: workers inside the task; bit 15: whether more may enter; from 16 threads of the task, worker
  // 0 included; from 32 the count of tasks. One word, so that who enters knows which task it is.
  alignas(64) std::atomic<uint64_t> door{0};
  Signal tasks;  // their count
  const std::function<void(int)>* task = nullptr;
  alignas(64) std::atomic<int> n_done{0};  // workers that have finished the task
  std::atomic<bool> failed{false};
  std::exception_ptr error;  // what the first to fail threw
  Signal left;               // raised whenever a worker has left the task

  void work(int id) {
    try {
      (*task)(id);
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
  }
};

namespace {

// Steps of one model follow each other within about 100 us (Python between two steps); after that the
// machine is better used by others.
constexpr double kIdleSpin_s = 100e-6;

// Workers finish within microseconds of each other, unless one has lost its processor.
constexpr double kFinishSpin_s = 20e-6;

constexpr uint64_t kOpen = 1 << 15, kInside = kOpen - 1;

uint32_t task_of(uint64_t door) { return static_cast<uint32_t>(door >> 32); }
int threads_of(uint64_t door) { return static_cast<int>(door >> 16 & 0xffff); }

// Joins the task behind the door unless that is closed, has no place for `id`, or is the one last seen.
bool enter(std::atomic<uint64_t>& door, int id, uint32_t& seen) {
  uint64_t state = door.load(std::memory_order_acquire);
  const auto may = [&] { return (state & kOpen) && task_of(state) != seen && id < threads_of(state); };
  while (may())
    if (door.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) {
      seen = task_of(state);
      return true;
    }
  seen = task_of(state);
  return false;
}

// Set in a forked child: its copy of the pool has no threads behind it.
std::atomic<Pool*> current{nullptr};
std::mutex creation;

void forget_pool_in_child() {
  current.store(nullptr);
  new (&creation) std::mutex;  // the parent may have held it
}

}  // namespace

Pool& Pool::get() {
  Pool* pool = current.load(std::memory_order_acquire);
  if (pool) return *pool;
  std::lock_guard lock(creation);
  static const int registered = pthread_atfork(nullptr, nullptr, forget_pool_in_child);
  (void)registered;
  if (!(pool = current.load())) current.store(pool = new Pool);  // never destroyed: workers are detached
  return *pool;
}

void Pool::grow(int n_workers) {
  if (!shared_) shared_ = std::make_shared<Shared>();
  while (n_workers_ < n_workers) {
    const int id = n_workers_ + 1;
    std::thread([shared = shared_, id, seen = shared_->tasks.count()]() mutable {
      for (;;) {
        shared->tasks.wait([&] { return shared->tasks.count() != seen; }, kIdleSpin_s);
        if (!enter(shared->door, id, seen)) continue;
        shared->work(id);
        shared->n_done.fetch_add(1, std::memory_order_release);
        shared->door.fetch_sub(1, std::memory_order_release);
        shared->left.raise();
      }
    }).detach();
    ++n_workers_;  // only now: a thread that the system refused must not be waited for
  }
}

void Pool::start(int n_threads, const std::function<void(int)>& task) {
  grow(n_threads - 1);
  const uint32_t count = shared_->tasks.count() + 1;
  shared_->task = &task;
  shared_->n_done.store(0, std::memory_order_relaxed);
  shared_->failed.store(false, std::memory_order_relaxed);
  shared_->door.store(uint64_t{count} << 32 | static_cast<uint64_t>(n_threads) << 16 | kOpen,
                      std::memory_order_release);
  shared_->tasks.raise();
}

// Closes the door, waits for those inside, and throws what the first of them threw.
void Pool::finish() {
  shared_->door.fetch_and(~kOpen, std::memory_order_acq_rel);
  shared_->left.wait([this] { return (shared_->door.load(std::memory_order_acquire) & kInside) == 0; },
                     kFinishSpin_s);
  if (shared_->failed.load(std::memory_order_relaxed))
    std::rethrow_exception(std::exchange(shared_->error, nullptr));
}

void Pool::run(int n_threads, const std::function<void(int)>& task) {
  n_threads = std::min(n_threads, kMaxThreads);
  if (n_threads <= 1) return task(0);
  std::lock_guard lock(turn_);
  start(n_threads, task);
  shared_->work(0);
  shared_->left.wait([&] { return shared_->n_done.load(std::memory_order_acquire) == n_threads - 1; },
                     kFinishSpin_s);
  finish();
}

void Pool::offer(int n_threads, const std::function<void(int)>& task) {
  n_threads = std::min(n_threads, kMaxThreads);
  if (n_threads <= 1) return task(0);
  std::lock_guard lock(turn_);
  start(n_threads, task);
  shared_->work(0);
  finish();
}

void Pool::for_each(int n_threads, int64_t n_items, const std::function<void(int64_t)>& item) {
  std::atomic<int64_t> next{0};
  offer(n_threads, [&](int) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n_items;) item(i);
  });
}

}  // namespace lanner
