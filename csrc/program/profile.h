// What the threads of a program did in a step, and when; nothing is noted unless somebody asks.
//
// A thread notes when it begins and when it ends an instruction. What lies between is waiting at barriers,
// so barriers are not timed, and however they are made and whoever takes part in a step, the times of a
// thread add up to that of the step.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/tensor.h"

namespace lanner {

struct Instruction;

// Times are nanoseconds of std::chrono::steady_clock, which is time.perf_counter's clock where Linux runs.
struct Span {
  int64_t instruction, begin_ns, end_ns;
};

struct StepProfile {
  int64_t called_ns = 0, begin_ns = 0, end_ns = 0, left_ns = 0;  // outside of begin to end, it was profiled
  int32_t n_tokens = 0, n_seqs = 0, n_outputs = 0;
  bool is_complete = false;              // and not stopped by cancel()
  std::vector<std::vector<Span>> spans;  // by thread, in order
  std::vector<Cost> costs;               // by instruction
  StepProfile* next = nullptr;
};

class Profiler {
 public:
  Profiler() = default;
  Profiler(const Profiler&) = delete;
  ~Profiler() { take(); }

  // From any thread: whether steps that begin from now on are profiled.
  void enable(bool on) { is_enabled_.store(on, std::memory_order_relaxed); }

  // From any thread: the steps that have ended since the last call, in order. No lock, which fork could
  // catch.
  std::vector<std::unique_ptr<StepProfile>> take();

  // From the thread that steps the program; n_threads take part. What was begun and not ended is forgotten.
  void begin(const Step& step, int n_threads) {
    is_active_ = is_enabled_.load(std::memory_order_relaxed);
    if (is_active_) start(step, n_threads);
  }
  void end(const std::vector<Instruction>& instructions, const Step& step, bool is_complete);

  // Whether the step that runs is profiled: only then its threads call enter and leave.
  bool is_active() const { return is_active_; }

  // Before and after a thread computes a range of an instruction; ranges in succession are one span.
  void enter(int thread, int instruction) {
    std::vector<Span>& spans = threads_[thread].spans;
    if (spans.empty() || spans.back().instruction != instruction) spans.push_back({instruction, now_ns(), 0});
  }
  void leave(int thread) { threads_[thread].spans.back().end_ns = now_ns(); }

 private:
  struct alignas(64) Thread {
    std::vector<Span> spans;
  };

  static int64_t now_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
  void start(const Step& step, int n_threads);

  std::atomic<bool> is_enabled_{false};
  bool is_active_ = false;
  std::unique_ptr<StepProfile> current_;
  std::vector<Thread> threads_;
  std::atomic<StepProfile*> done_{nullptr};  // a stack
};

}  // namespace lanner
