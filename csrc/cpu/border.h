// How far down a row, in descending order of a key, until the weights of its elements add up to a target:
// without sorting it. A sample of the row tells between which keys the border lies, one pass adds up what is
// above and collects what is between, and this small rest is searched the same way. A sample that misled
// costs a further pass and changes nothing in the answer.
#pragma once

#include <cmath>

#include "cpu/order.h"
#include "ops/sample.h"
#include "simd/tail.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// Elements with a larger key are above the border; of those with this very key only the first n_ties, where
// is_split says that there are more.
struct Border {
  float key = -__builtin_inff();
  int64_t n_ties = 0;
  bool is_split = false;
};

// Weights of 1024 elements add up in float32 before they join a sum in float64.
inline constexpr int kStretch = 1024;

inline F32 load_or_lowest(const float* x, int n) {
  return n >= 16 ? load(x) : keep_first(load_n(x, n), n, set1(-__builtin_inff()));
}

// The smallest float that is larger.
inline float above(float x) { return of_ordered_bits(ordered_bits(x + 0.0f) + 1); }

inline Border border_among_ties(float key, int64_t n_equal, double each, double target) {
  const double wanted = std::ceil(target / each);  // no number where they weigh nothing
  const int64_t n = wanted < 1 ? 1 : wanted < n_equal ? static_cast<int64_t>(wanted) : n_equal;
  return {key, n, n < n_equal};
}

// What a pass over a whole row leaves behind, by stretch: the mass over the bracket, and the end of the part
// of the collected elements that is from there.
inline constexpr int kMaxStretches = kMaxVocab / kStretch;
struct Trace {
  double over[kMaxStretches];
  int ends[kMaxStretches];
  const float* collected;  // null where nothing was kept
};

struct Parts {
  double over = 0, all = 0;  // mass of key >= high, and of key >= low: the same bits for the same key
  int n_between = 0;
};

// Divides x at two keys; writes what is between to `to`, unless that is null. It may be x itself.
template <class Order>
Parts divide(const Order order, const float* x, int n, float low, float high, float* to,
             Trace* trace = nullptr) {
  Parts p;
  for (int begin = 0; begin < n; begin += kStretch) {
    F32 over = zero(), all = zero();
    const int end = begin + kStretch < n ? begin + kStretch : n;
    for (int i = begin; i < end; i += 16) {
      const F32 v = load_or_lowest(x + i, end - i), key = order.key(v);
      F32 w = order.weight(v);
      uint32_t bits = at_least(key, low) & ~at_least(key, high);
      if (end - i < 16) w = keep_first(w, end - i, zero()), bits &= (1u << (end - i)) - 1;
      over = over + zero_below(w, key, high);
      all = all + zero_below(w, key, low);
      if (to) compress(to + p.n_between, v, bits);  // a branch where no bit is set would be guessed wrong
      p.n_between += __builtin_popcount(bits);
    }
    const double sum = hsum(over);
    if (trace) trace->over[begin / kStretch] = sum, trace->ends[begin / kStretch] = p.n_between;
    p.over += sum;
    p.all += hsum(all);
  }
  return p;
}

// A key and a weight that is not negative, 32 bits each, so that integers are ordered as keys are.
struct Keyed {
  static uint64_t of(float key, float weight) {
    uint32_t bits;
    std::memcpy(&bits, &weight, 4);
    return static_cast<uint64_t>(ordered_bits(key + 0.0f)) << 32 | bits;  // -0 becomes 0
  }
  static float key(uint64_t keyed) { return of_ordered_bits(static_cast<uint32_t>(keyed >> 32)); }
  static float weight(uint64_t keyed) {
    const auto bits = static_cast<uint32_t>(keyed);
    float w;
    std::memcpy(&w, &bits, 4);
    return w;
  }
};
template <class Order>
inline void write_keyed(const Order& order, const float* x, int n, float scale, uint64_t* out) {
  for (int i = 0; i < n; i += 16) {
    const F32 v = load_or_lowest(x + i, n - i);
    float key[16], weight[16];
    store(key, order.key(v)), store(weight, order.weight(v) * set1(scale));
    for (int k = 0; k < 16 && i + k < n; ++k) out[i + k] = Keyed::of(key[k], weight[k]);
  }
}

// A bracket of three errors of 512 elements holds less than a tenth of most rows; twice as many take longer
// to sort than they save.
inline constexpr int kSample = 512;
inline constexpr int kMostHeavy = 512;
// So few are searched one by one, in the time of a sample.
inline constexpr int kFew = 2048;

// What a sample may miss: nearly all elements from a limit on, each of which may outweigh thousands.
struct Heavy {
  const float* x = nullptr;  // (n), n <= kMostHeavy
  int n = 0;
  float limit = __builtin_inff();
};

// The key of the border is at least low and below high; `mass` lies between it and one of them.
struct Goal {
  float low, high;
  bool from_high;
  double mass;
  bool admits(float key) const { return key >= low && key < high; }
};

// A part of a row in descending order of keys; each weighs as much as all that it stands for.
struct Sample {
  uint64_t keyed[kSample + kMostHeavy];
  int n;
};
template <class Order>
void draw_sample(const Order& order, const float* x, int n, const Heavy& heavy, const Goal& goal, Sample& s) {
  float drawn[kSample];
  const int wanted = n / 32 < kSample ? n / 32 : kSample;
  s.n = 0;
  for (int64_t i = 0; i < wanted; ++i) {
    const float each = x[(2 * i + 1) * n / (2 * wanted)];
    if (!(each >= heavy.limit)) drawn[s.n++] = each;
  }
  write_keyed(order, drawn, s.n, static_cast<float>(n) / wanted, s.keyed);
  write_keyed(order, heavy.x, heavy.n, 1.0f, s.keyed + s.n);
  const int end = s.n + heavy.n;
  for (int i = s.n; i < end; ++i)
    if (goal.admits(Keyed::key(s.keyed[i]))) s.keyed[s.n++] = s.keyed[i];
  sort_descending(s.keyed, s.n);
}

struct Bracket {
  float low, high;
  float pivot;    // the likeliest key of the sample,
  bool is_empty;  // unless none of its keys comes into question
};

// Where the border most likely lies. Sums over the sample begin at the end that the goal names, and are off
// by about the root of the squares in them; the bracket allows for three times that.
inline Bracket guess(const Sample& s, const Goal& goal) {
  Bracket b{goal.low, goal.high, goal.low, true};
  double sum = 0, squares = 0;
  for (int i = 0; i < s.n; ++i) {
    const uint64_t each = s.keyed[goal.from_high ? i : s.n - 1 - i];
    const float key = Keyed::key(each);
    const double w = Keyed::weight(each);
    if (!goal.admits(key)) continue;
    if (b.is_empty || sum <= goal.mass) b.pivot = key, b.is_empty = false;
    sum += w, squares += w * w;
    const double error = 3 * std::sqrt(squares);
    if (sum + error <= goal.mass) (goal.from_high ? b.high : b.low) = key;
    if (sum - error < goal.mass) continue;
    (goal.from_high ? b.low : b.high) = key;
    break;
  }
  return b;
}

inline double sum_of_weights(const uint64_t* keyed, int begin, int end) {
  double sum = 0;
  for (int i = begin; i < end; ++i) sum += Keyed::weight(keyed[i]);
  return sum;
}

// The element at which the sum from the largest on reaches the target, or the last (quickselect by weight).
inline uint64_t select_by_weight(uint64_t* keyed, int n, double target) {
  int low = 0, high = n - 1;
  while (low < high) {
    const Parted parted = part_descending(keyed, low, high);
    const double over = sum_of_weights(keyed, low, parted.left_end);
    if (over >= target) {
      high = parted.left_end - 1;
      continue;
    }
    target -= over + sum_of_weights(keyed, parted.left_end, parted.right);
    if (target <= 0) return keyed[parted.left_end];
    low = parted.right;
  }
  return keyed[low < n ? low : n - 1];
}

template <class Order>
Border find_in_few(const Order& order, const float* x, int n, double target) {
  uint64_t keyed[kFew];
  write_keyed(order, x, n, 1.0f, keyed);
  const float key = Keyed::key(select_by_weight(keyed, n, target));
  int n_equal = 0;
  double each = 0;
  for (int i = 0; i < n; ++i) {
    const float other = Keyed::key(keyed[i]);
    if (other > key) target -= Keyed::weight(keyed[i]);
    if (other == key) ++n_equal, each = Keyed::weight(keyed[i]);
  }
  return border_among_ties(key, n_equal, each, target);
}

// Order (weights.h): F32 key(F32 x), never a NaN, and F32 weight(F32 x) of at least 0. `mass` is that of all
// n elements; room (n_room) is for more than n + 16. Where the weights do not add up to the target, all are
// above the border. Each pass either collects fewer elements or narrows the goal.
template <class Order>
Border find_border(const Order& order, const float* x, int n, double mass, double target, float* room,
                   int64_t n_room, const Heavy& heavy = {}, Trace* trace = nullptr) {
  if (!(target > 0)) target = 1e-300;  // the first that weighs anything
  const float* const end = room + n_room;
  const float infinity = __builtin_inff();
  Goal goal{-infinity, infinity, Order::kStartsEvenly && target < mass / 2, 0};
  goal.mass = goal.from_high ? target : mass - target;
  Sample sample;
  if (trace) trace->collected = nullptr;
  float* own = nullptr;  // x where it may be changed
  bool is_new = true, has_all = true,
       cuts = true;  // x; the goal admits all of it; the last pass cut much off
  int n_misses = 0;
  while (n > kFew) {
    if (is_new) draw_sample(order, x, n, heavy, goal, sample);
    Bracket b = guess(sample, goal);
    // Three parts at a single key make progress whatever the sample was worth.
    const bool says_nothing = has_all && b.low <= goal.low && b.high >= goal.high;
    bool is_tie = !b.is_empty && (says_nothing || !cuts || n_misses > 1 || !(b.low < b.high));
    if (n_misses > 1 && goal.low > -infinity && goal.high < infinity)
      b.low = goal.low, b.high = goal.high, is_tie = false;  // the sample has said what it knew
    if (is_tie) b.low = b.pivot, b.high = above(b.pivot);
    float* to = own ? own + n : room;
    if (to + n + 16 > end) to = nullptr;
    const Parts p = divide(order, x, n, b.low, b.high, to, own ? nullptr : trace);
    is_new = false, has_all = false, ++n_misses;
    if (p.over >= target) {
      goal = {b.high, goal.high, false, p.over - target};
    } else if (p.all < target) {
      if (b.low <= goal.low) return {goal.low, n, false};
      goal = {goal.low, b.low, true, target - p.all};
    } else {
      target -= p.over;
      if (is_tie) return border_among_ties(b.pivot, p.n_between, (p.all - p.over) / p.n_between, target);
      if (trace && !own) trace->collected = to;
      if (trace && !to) trace->collected = nullptr;
      if (!to) divide(order, x, n, b.low, b.high, to = own);
      goal = {b.low, b.high, false, p.all - p.over - target};
      cuts = p.n_between < n - n / 4;
      x = own = to, n = p.n_between;
      is_new = has_all = true, n_misses = 0;
    }
  }
  return n > 0 ? find_in_few(order, x, n, target) : Border{goal.low, 0, false};
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
