#include "core/pool.h"

#include <pthread.h>

#include <algorithm>
#include <new>

namespace lanner {

// State that workers poll. It is never freed: detached workers may look at it while the process exits.
struct Pool::Shared {
  // Low byte: threads of the task, worker 0 included; above it a count of tasks. One word, so that a worker
  // left out of a task cannot mistake the size of the next one for it.
  alignas(64) std::atomic<uint32_t> generation{0};
  const std::function<void(int)>* task = nullptr;
  alignas(64) std::atomic<int> n_running{0};  // workers that have not finished the task
};

namespace {

// Steps of one model follow each other within about 100 us (Python between two steps); after that the
// machine is better used by others.
constexpr int kPauses = 2000;
constexpr int kYields = 200;

void wait_for_change(std::atomic<uint32_t>& value, uint32_t seen) {
  for (int i = 0; i < kPauses; ++i) {
    if (value.load(std::memory_order_acquire) != seen) return;
    pause_cpu();
  }
  for (int i = 0; i < kYields; ++i) {
    if (value.load(std::memory_order_acquire) != seen) return;
    std::this_thread::yield();
  }
  value.wait(seen, std::memory_order_acquire);
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
    std::thread([shared = shared_, id, seen = shared_->generation.load()]() mutable {
      for (;;) {
        wait_for_change(shared->generation, seen);
        seen = shared->generation.load(std::memory_order_acquire);
        if (id >= static_cast<int>(seen & 255)) continue;
        (*shared->task)(id);
        shared->n_running.fetch_sub(1, std::memory_order_release);
      }
    }).detach();
    ++n_workers_;  // only now: a thread that the system refused must not be waited for
  }
}

void Pool::run(int n_threads, const std::function<void(int)>& task) {
  n_threads = std::min(n_threads, kMaxThreads);
  if (n_threads <= 1) return task(0);
  std::lock_guard lock(turn_);
  grow(n_threads - 1);
  shared_->task = &task;
  shared_->n_running.store(n_threads - 1, std::memory_order_relaxed);
  const uint32_t count = shared_->generation.load(std::memory_order_relaxed) >> 8;
  shared_->generation.store((count + 1) << 8 | static_cast<uint32_t>(n_threads), std::memory_order_release);
  shared_->generation.notify_all();
  task(0);
  for (int spins = 0; shared_->n_running.load(std::memory_order_acquire) != 0; ++spins)
    spins < kPauses ? pause_cpu() : std::this_thread::yield();
}

void Pool::for_each(int n_threads, int64_t n_items, const std::function<void(int64_t)>& item) {
  std::atomic<int64_t> next{0};
  run(n_threads, [&](int) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n_items;) item(i);
  });
}

}  // namespace lanner
