#include "program/program.h"

#include <algorithm>

#include "cpu/backend.h"

namespace lanner {

namespace {

// A thread begins with a range of its own, and the last eighth is taken as threads come. With many rows, and
// units enough that the kernels' blocks of 16 panels stay whole, everything is: a core that was interrupted
// then does not hold up the others.
constexpr int kDynamicShare = 8, kDynamicUnits = 32;  // units of a thread

// Rows that a replicable operation writes: tokens, or outputs after gather_rows.
template <class Args>
RowKind output_kind(const Args& args) {
  if constexpr (requires { args.out; })
    return args.out.kind;
  else if constexpr (requires { args.x; })
    return args.x.kind;
  else
    return RowKind::kTokens;
}

// How long a step waits for its threads to come, as a part of the time that it will take, and limits of that:
// a thread that sleeps on a quiet machine is up in less than 100 us.
constexpr double kPatience = 0.1, kLeastPatience_s = 50e-6, kMostPatience_s = 1e-3;

int checked_threads(int n_threads) {
  check(n_threads >= 1 && n_threads <= kMaxThreads, "Program: n_threads is ", n_threads, ", wanted 1 to ",
        kMaxThreads);
  return n_threads;
}

}  // namespace

Program::Program(size_t arena_bytes, int n_threads, int32_t max_tokens, int32_t max_outputs)
    : n_threads_(checked_threads(n_threads)),
      arena_(arena_bytes),
      scratch_(kScratchBytes * static_cast<size_t>(n_threads)),
      barrier_(n_threads) {
  check(max_tokens >= 1 && max_outputs >= 1, "Program: max_tokens and max_outputs are ", max_tokens, " and ",
        max_outputs, ", wanted at least 1");
  limits_.max_tokens = max_tokens;
  limits_.max_outputs = max_outputs;
}

template <class Args>
void Program::add(const char* op, std::string name, bool barrier, const Args& args) {
  check(args);
  constexpr bool is_attention = std::is_same_v<Args, AttentionArgs>;
  if constexpr (std::is_same_v<Args, EmbedArgs>)
    limits_.vocab_size = std::min(limits_.vocab_size, args.weight->n);
  if constexpr (std::is_same_v<Args, AddPositionsArgs>)
    limits_.n_positions = std::min(limits_.n_positions, n_positions(args));
  limits_.caches.add(args);
  Instruction i{std::move(name),
                op,
                barrier,
                kReplicable<Args>,
                is_attention,
                output_kind(args),
                std::make_unique<AnyArgs>(args),
                nullptr,
                OpTraits<Args>::kernel(cpu_table()),
                [](const void* a, const Step& step) { return units(*static_cast<const Args*>(a), step); },
                [](const void* a, const Step& step) { return cost(*static_cast<const Args*>(a), step); }};
  Args& own = std::get<Args>(*i.args);
  if constexpr (is_attention) give_plan(own);
  i.raw = &own;
  push(std::move(i));
}

#define LANNER_INSTANTIATE(op, Args) \
  template void Program::add<Args>(const char*, std::string, bool, const Args&);
LANNER_OPS(LANNER_INSTANTIATE)
#undef LANNER_INSTANTIATE

// Layers that cut a step alike share the plan of the first of them.
void Program::give_plan(AttentionArgs& args) {
  for (size_t p = 0; p < plans_.size(); ++p)
    if (cuts_alike(args, *planned_[p])) {
      args.plan = plans_[p].get();
      return;
    }
  args.plan = plans_.emplace_back(std::make_unique<AttentionPlan>()).get();
  planned_.push_back(&args);
}

void Program::push(Instruction i) {
  const int index = static_cast<int>(instructions_.size());
  if (phases_.empty() || i.barrier) {
    phases_.push_back({index, index, index});
    next_unit_ = std::make_unique<std::atomic<int32_t>[]>(phases_.size());
  }
  Phase& phase = phases_.back();
  if (i.replicable) {
    check(phase.first_main == index, "Program: ", i.name, " (", i.op,
          ") is replicable and must come before the other operations of its phase");
    const RowKind kind = phase.first == index ? i.kind : instructions_[phase.first].kind;
    check(i.kind == kind, "Program: ", i.name, " (", i.op, ") has rows of ", kind_name(i.kind),
          ", the replicable operations before it in its phase have rows of ", kind_name(kind));
    phase.first_main = index + 1;
  } else if (phase.first_main < index) {
    // Equal for two unlike steps means: counted alike.
    for (const auto& [n_tokens, n_outputs] : {std::pair{1, 1}, std::pair{2, 3}}) {
      Step step;
      step.n_tokens = n_tokens, step.n_outputs = n_outputs;
      const Instruction& first = instructions_[phase.first_main];
      const int wanted = first.units(first.raw, step), given = i.units(i.raw, step);
      check(given == wanted, "Program: ", i.name, " (", i.op, ") has ", given, " units, ", first.name,
            " in the same phase has ", wanted);
    }
  }
  phase.end = index + 1;
  instructions_.push_back(std::move(i));
}

void Program::check_step(const Step& s) const {
  const char* op = "Program.run";
  check(s.n_tokens >= 1 && s.n_tokens <= limits_.max_tokens, op, ": n_tokens is ", s.n_tokens,
        ", wanted 1 to ", limits_.max_tokens);
  check(s.n_outputs >= 0 && s.n_outputs <= limits_.max_outputs, op, ": n_outputs is ", s.n_outputs,
        ", wanted 0 to ", limits_.max_outputs);
  check_token_ids(op, s, limits_.vocab_size);
  check_output_rows(op, s);
  if (limits_.n_positions < kAnyPosition) check_positions(op, s, limits_.n_positions);
  check_sequences(op, s, limits_.caches);
}

bool Program::run(const Step& step, double deadline_s) {
  profiler_.begin(step, n_threads_);
  check_step(step);
  for (const AttentionArgs* a : planned_) prepare(*a->plan, *a, step);
  for (size_t p = 0; p < phases_.size(); ++p) next_unit_[p].store(0, std::memory_order_relaxed);
  deadline_s_ = deadline_s;
  stopped_ = false;
  run_threads(step);
  profiler_.end(instructions_, step, !stopped_);
  return !stopped_;
}

// As many threads as are worth it now; no bit of the result depends on how many.
void Program::run_threads(const Step& step) {
  Pool& pool = Pool::get();
  const bool all = all_threads_always.load(std::memory_order_relaxed);
  double begun_s = monotonic_s();
  const int n_wanted = all ? n_threads_ : pool.limit().most(std::min(n_threads_, n_processors()), begun_s);
  const auto begin = [&](int n) {
    begun_s = monotonic_s();
    barrier_.reset(n_members_ = n);
  };
  const double patience_s =
      std::clamp(kPatience * per_token_s_ * step.n_tokens, kLeastPatience_s, kMostPatience_s);
  pool.gather(n_wanted, all ? kForever : patience_s, begin, [this, &step](int id) { run_worker(step, id); });
  if (n_wanted == 1 || all) return;
  const double end_s = monotonic_s(), lost_s = barrier_.lost_s() / std::max(1, n_members_ - 1);
  pool.limit().note({n_wanted, n_members_, end_s - begun_s, lost_s}, end_s);
  per_token_s_ = (end_s - begun_s) / step.n_tokens;
}

bool Program::must_stop() const {
  if (cancelled_.load(std::memory_order_relaxed)) return true;
  return deadline_s_ < kForever && monotonic_s() >= deadline_s_;
}

void Program::run_worker(const Step& step, int id) {
  Worker worker;
  worker.id = id;
  barrier_.enter(id);
  worker.replicated[0] = step.n_tokens <= kReplicatedRows;
  worker.replicated[1] = step.n_outputs <= kReplicatedRows;
  worker.scratch = scratch_.data() + static_cast<size_t>(id) * kScratchBytes;
  for (size_t p = 0; p < phases_.size(); ++p) {
    run_shared(phases_[p], step, worker);
    run_units(phases_[p], static_cast<int>(p), step, worker);
    // One thread decides for all, so that none waits at the next barrier for one that left.
    barrier_.wait(id, [this] { stopped_ = must_stop(); });
    if (stopped_) return;
  }
}

void Program::run_one(int instruction, const Step& step, const Worker& worker, int begin, int end) {
  const Instruction& op = instructions_[instruction];
  if (!profiler_.is_active()) return op.run(op.raw, step, worker, begin, end);
  profiler_.enter(worker.id, instruction);
  op.run(op.raw, step, worker, begin, end);
  profiler_.leave(worker.id);
}

void Program::run_shared(const Phase& phase, const Step& step, const Worker& worker) {
  if (phase.first == phase.first_main) return;
  const bool replicated = worker.replicated[static_cast<int>(instructions_[phase.first].kind)];
  for (int i = phase.first; i < phase.first_main; ++i) {
    const Instruction& op = instructions_[i];
    const int64_t n = op.units(op.raw, step);
    const int begin = replicated ? 0 : static_cast<int>(n * worker.id / n_members_);
    const int end = replicated ? static_cast<int>(n) : static_cast<int>(n * (worker.id + 1) / n_members_);
    run_one(i, step, worker, begin, end);
  }
  if (!replicated) barrier_.wait(worker.id);
}

void Program::run_units(const Phase& phase, int index, const Step& step, const Worker& worker) {
  if (phase.first_main == phase.end) return;
  const Instruction& first = instructions_[phase.first_main];
  const int n = first.units(first.raw, step);
  auto run_range = [&](int begin, int end) {
    for (int i = phase.first_main; i < phase.end; ++i) run_one(i, step, worker, begin, end);
  };
  if (n_members_ == 1) return run_range(0, n);
  const bool is_static =
      !first.uneven && (step.n_tokens <= kReplicatedRows || n < kDynamicUnits * n_members_);
  const int share = is_static ? (n - n / kDynamicShare) / n_members_ : 0, fixed = share * n_members_;
  if (share > 0) run_range(share * worker.id, share * (worker.id + 1));
  // Ever smaller claims of what is left: few, and the last ones even out.
  std::atomic<int32_t>& next = next_unit_[index];
  for (int32_t begin = next.load(std::memory_order_relaxed);;) {
    const int left = n - fixed - begin;
    if (left <= 0) return;
    const int grain = first.uneven ? 1 : std::max(1, left / (2 * n_members_));
    if (!next.compare_exchange_weak(begin, begin + grain, std::memory_order_relaxed)) continue;
    run_range(fixed + begin, fixed + begin + grain);
    begin = next.load(std::memory_order_relaxed);
  }
}

}  // namespace lanner
