#include "program/profile.h"

#include <algorithm>
#include <utility>

#include "program/program.h"

namespace lanner {

void Profiler::start(const Step& step, int n_threads) {
  current_ = std::make_unique<StepProfile>();
  current_->called_ns = now_ns();
  current_->n_tokens = step.n_tokens;
  current_->n_seqs = step.n_seqs;
  current_->n_outputs = step.n_outputs;
  threads_.resize(n_threads);
  for (Thread& thread : threads_) {
    const size_t n_last = thread.spans.size();
    thread.spans.clear();
    thread.spans.reserve(n_last + n_last / 4 + 1024);  // a step is much like the last
  }
  current_->begin_ns = now_ns();
}

void Profiler::end(const std::vector<Instruction>& instructions, const Step& step, bool is_complete) {
  if (!is_active_) return;
  current_->end_ns = now_ns();
  current_->is_complete = is_complete;
  for (const Thread& thread : threads_) current_->spans.push_back(thread.spans);
  for (const Instruction& i : instructions) current_->costs.push_back(i.cost(i.raw, step));
  current_->next = done_.load(std::memory_order_relaxed);
  current_->left_ns = now_ns();
  StepProfile* ended = current_.release();
  while (
      !done_.compare_exchange_weak(ended->next, ended, std::memory_order_release, std::memory_order_relaxed));
}

std::vector<std::unique_ptr<StepProfile>> Profiler::take() {
  std::vector<std::unique_ptr<StepProfile>> steps;
  for (StepProfile* step = done_.exchange(nullptr, std::memory_order_acquire); step;) {
    StepProfile* next = std::exchange(step->next, nullptr);
    steps.emplace_back(step);
    step = next;
  }
  std::reverse(steps.begin(), steps.end());
  return steps;
}

}  // namespace lanner
