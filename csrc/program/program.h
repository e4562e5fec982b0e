// A flat list of operations and the executor that runs it.
//
// What stands in the list runs, in that order. A barrier divides it into phases. Inside a phase the threads
// do not meet: first every thread computes the replicable operations (norms, the quantization of a row),
// then each takes ranges of the units that the other operations of the phase have in common and runs these
// operations one after the other on a range. Where a step has many rows, replicable operations are shared
// out by rows instead, at the price of one more barrier.
#pragma once

#include <atomic>
#include <limits>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "core/memory.h"
#include "core/pool.h"
#include "ops/step_check.h"
#include "ops/table.h"
#include "program/profile.h"

namespace lanner {

// Up to this many rows, every thread computes a norm for itself: about 0.3 us a row, as long as a barrier and
// the imbalance before it.
inline constexpr int kReplicatedRows = 4;

#define LANNER_ARGS(op, Args) , Args
using AnyArgs = std::variant<std::monostate LANNER_OPS(LANNER_ARGS)>;
#undef LANNER_ARGS

// How the executor calls an operation whatever its arguments; resolved once, when an instruction is added.
struct Instruction {
  std::string name;  // "L03.attn.qkv", for profiles and errors
  std::string op;
  bool barrier;  // all threads meet before it
  bool replicable;
  bool uneven;   // units differ in cost: threads take them one by one
  RowKind kind;  // rows of a replicable operation
  std::unique_ptr<AnyArgs> args;
  const void* raw;  // the alternative inside args
  Kernel run;
  int (*units)(const void* args, const Step& step);
  Cost (*cost)(const void* args, const Step& step);
};

inline constexpr int32_t kAnyPosition = std::numeric_limits<int32_t>::max();

// What a step may refer to, taken from the operations of the list: the smallest vocabulary and caches.
struct StepLimits {
  int32_t max_tokens = 0, max_outputs = 0;
  int32_t vocab_size = std::numeric_limits<int32_t>::max();
  CacheLimits caches;
  int32_t n_positions = kAnyPosition;  // of the shortest table of learned positions
};

class Program {
 public:
  Program(size_t arena_bytes, int n_threads, int32_t max_tokens, int32_t max_outputs);

  // Adds an instruction; args are checked (ops/). The first and every barrier start a phase.
  template <class Args>
  void add(const char* op, std::string name, bool barrier, const Args& args);

  // Runs the list; false if cancel() or the deadline, in seconds of the monotonic clock, stopped it between
  // two phases. Throws std::invalid_argument where the step refers to what does not exist. One step at a
  // time: the caller is the engine thread.
  bool run(const Step& step, double deadline_s = kForever);

  // From any thread: the running step ends at its next barrier; holds until clear_cancel().
  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  void clear_cancel() { cancelled_.store(false, std::memory_order_relaxed); }

  // Times of steps, for those who enable it.
  Profiler& profiler() { return profiler_; }

  // For tests and measurements: steps wait for all of their threads, however busy or small the machine is.
  static inline std::atomic<bool> all_threads_always{false};

  const StepLimits& limits() const { return limits_; }
  std::byte* arena() const { return arena_.data(); }
  size_t arena_bytes() const { return arena_.n_bytes(); }
  int n_threads() const { return n_threads_; }
  const std::vector<Instruction>& instructions() const { return instructions_; }

 private:
  struct Phase {
    int first, first_main, end;  // instructions: [first, first_main) replicable, [first_main, end) by units
  };

  void give_plan(AttentionArgs& args);
  void push(Instruction instruction);
  void check_step(const Step& step) const;
  void run_worker(const Step& step, int id);
  void run_threads(const Step& step);
  bool must_stop() const;
  void run_shared(const Phase& phase, const Step& step, const Worker& worker);
  void run_units(const Phase& phase, int index, const Step& step, const Worker& worker);
  void run_one(int instruction, const Step& step, const Worker& worker, int begin, int end);

  const int n_threads_;
  StepLimits limits_;
  Memory arena_, scratch_;
  std::vector<std::unique_ptr<AttentionPlan>> plans_;
  std::vector<const AttentionArgs*> planned_;  // by plan: the first attention that has it
  std::vector<Instruction> instructions_;
  std::vector<Phase> phases_;
  std::unique_ptr<std::atomic<int32_t>[]> next_unit_;  // by phase
  Profiler profiler_;
  Barrier barrier_;
  int n_members_ = 1;  // threads of this run
  std::atomic<bool> cancelled_{false};
  double deadline_s_ = kForever;
  double per_token_s_ = 1e-3;  // of the last step that had several threads
  bool stopped_ = false;       // written by the last to arrive at a barrier, read by all after it
};

// The kernel of each argument struct, and whether its rows may be computed by every thread.
template <class Args>
struct OpTraits;
#define LANNER_TRAITS(op, Args)                                      \
  template <>                                                        \
  struct OpTraits<Args> {                                            \
    static constexpr const char* kName = #op;                        \
    static Kernel kernel(const CpuTable& table) { return table.op; } \
  };
LANNER_OPS(LANNER_TRAITS)
#undef LANNER_TRAITS

template <class Args>
constexpr bool kReplicable = false;
template <>
inline constexpr bool kReplicable<GatherRowsArgs> = true;
template <>
inline constexpr bool kReplicable<RmsNormArgs> = true;
template <>
inline constexpr bool kReplicable<QuantizeRowsArgs> = true;
template <>
inline constexpr bool kReplicable<RopeTableArgs> = true;
template <>
inline constexpr bool kReplicable<LayerNormArgs> = true;
template <>
inline constexpr bool kReplicable<AddArgs> = true;
template <>
inline constexpr bool kReplicable<ScaleArgs> = true;
template <>
inline constexpr bool kReplicable<AddPositionsArgs> = true;
template <>
inline constexpr bool kReplicable<AddGatedArgs> = true;
template <>
inline constexpr bool kReplicable<RouteArgs> = true;

}  // namespace lanner
