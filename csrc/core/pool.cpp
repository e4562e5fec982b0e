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
  // Bit 0 to 14: workers that have entered; bit 15: whether more may; from 16 threads of the task, worker 0
  // included; from 32 the count of tasks. One word, so that who enters knows which task it is.
  alignas(64) std::atomic<uint64_t> door{0};
  Signal tasks;  // their count
  const std::function<void(int)>* task = nullptr;
  bool gathers = false;  // who enters waits until it has begun
  Signal came;           // raised by who enters and waits
  Signal begun;
  std::atomic<uint32_t> last_begun{0};  // count of the task
  Signal left;
  std::atomic<uint32_t> n_left{0};  // workers that have finished the task
  std::atomic<bool> failed{false};
  std::exception_ptr error;    // what the first to fail threw
  Places places{kMaxThreads};  // of the workers, where they waited last

  int enter(uint32_t& seen);
  void serve(int id, uint32_t count);

  void work(int id) {
    try {
      (*task)(id);
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
  }
};

namespace {

// Steps of one model follow each other within 200 to 400 us: the Python between them finds its data evicted
// by the weights. Who slept by then would be late for the step; after that others use the machine better.
constexpr double kIdleSpin_s = 600e-6;

// Workers come, begin and finish within microseconds of each other, unless one has lost its processor.
constexpr double kSpin_s = 20e-6;

constexpr uint64_t kOpen = 1 << 15;

uint32_t task_of(uint64_t door) { return static_cast<uint32_t>(door >> 32); }
int threads_of(uint64_t door) { return static_cast<int>(door >> 16 & 0xffff); }
int entered(uint64_t door) { return static_cast<int>(door & (kOpen - 1)); }

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

// Joins the task behind the door as worker 1 or more; 0 if it is closed, full, or the one last seen.
int Pool::Shared::enter(uint32_t& seen) {
  uint64_t state = door.load(std::memory_order_acquire);
  const auto may = [&] {
    return (state & kOpen) && task_of(state) != seen && entered(state) + 1 < threads_of(state);
  };
  int id = 0;
  while (id == 0 && may())
    if (door.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) id = entered(state) + 1;
  seen = task_of(state);
  return id;
}

void Pool::Shared::serve(int id, uint32_t count) {
  if (gathers) {
    came.raise();
    begun.wait([&] { return last_begun.load(std::memory_order_acquire) == count; }, kSpin_s);
  }
  work(id);
  n_left.fetch_add(1, std::memory_order_release);
  left.raise();
}

void Pool::grow(int n_workers) {
  if (!shared_) shared_ = std::make_shared<Shared>();
  while (n_workers_ < n_workers) {
    std::thread([shared = shared_, index = n_workers_, seen = shared_->tasks.count()]() mutable {
      double spin_s = kIdleSpin_s;
      for (;;) {
        shared->places.note(index);
        shared->tasks.wait([&] { return shared->tasks.count() != seen; }, spin_s);
        const int id = shared->enter(seen);
        if (id > 0) shared->serve(id, seen);
        spin_s = id > 0 ? kIdleSpin_s : 0;  // who was not needed sleeps
      }
    }).detach();
    ++n_workers_;  // only now: a thread that the system refused must not be waited for
  }
}

void Pool::start(int n_threads, const std::function<void(int)>& task, bool gathers) {
  grow(n_threads - 1);
  Shared& s = *shared_;
  // Who sleeps on this processor would be woken on it, and wait for what the caller is about to do.
  if (s.tasks.has_sleepers() && s.places.are_shared(-1, n_workers_)) s.places.leave(-1, n_workers_);
  const uint32_t count = s.tasks.count() + 1;
  s.task = &task;
  s.gathers = gathers;
  s.n_left.store(0, std::memory_order_relaxed);
  s.failed.store(false, std::memory_order_relaxed);
  s.door.store(uint64_t{count} << 32 | static_cast<uint64_t>(n_threads) << 16 | kOpen,
               std::memory_order_release);
  s.tasks.raise_among(n_threads - 1, n_workers_);
}

// Closes the door, waits for those who came, and throws what the first of them threw.
void Pool::finish() {
  Shared& s = *shared_;
  const int n_came = entered(s.door.fetch_and(~kOpen, std::memory_order_acq_rel));
  s.left.wait([&] { return s.n_left.load(std::memory_order_acquire) == static_cast<uint32_t>(n_came); },
              kSpin_s);
  if (s.failed.load(std::memory_order_relaxed)) std::rethrow_exception(std::exchange(s.error, nullptr));
}

void Pool::gather(int n_threads, double patience_s, const std::function<void(int)>& begin,
                  const std::function<void(int)>& task) {
  n_threads = std::min(n_threads, kMaxThreads);
  if (n_threads <= 1) {
    begin(1);
    return task(0);
  }
  std::lock_guard lock(turn_);
  start(n_threads, task, true);
  Shared& s = *shared_;
  const auto complete = [&] { return entered(s.door.load(std::memory_order_acquire)) == n_threads - 1; };
  if (patience_s == kForever)
    s.came.wait(complete, kSpin_s);
  else
    spin_until(complete, patience_s);
  const uint64_t door = s.door.fetch_and(~kOpen, std::memory_order_acq_rel);
  begin(1 + entered(door));
  s.last_begun.store(task_of(door), std::memory_order_release);
  s.begun.raise();
  s.work(0);
  finish();
}

void Pool::run(int n_threads, const std::function<void(int)>& task) {
  gather(n_threads, kForever, [](int) {}, task);
}

void Pool::offer(int n_threads, const std::function<void(int)>& task) {
  n_threads = std::min(n_threads, kMaxThreads);
  if (n_threads <= 1) return task(0);
  std::lock_guard lock(turn_);
  start(n_threads, task, false);
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
