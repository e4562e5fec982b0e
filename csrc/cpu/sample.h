// The next token of each row (order of the stages in ops/sample.h). No sort of the vocabulary: a quickselect
// over integer keys finds the top_k, and top_p looks at the largest few until their mass suffices.
#pragma once

#include <cmath>

#include "ops/sample.h"
#include "simd/math.h"

namespace lanner::LANNER_ISA_NS {
namespace {

inline float abs1(float x) { return x < 0 ? -x : x; }

inline int argmax(const float* x, int n) {
  F32 best = set1(-__builtin_inff());
  int i = 0;
  for (; i + 16 <= n; i += 16) best = max(load(x + i), best);
  float highest = hmax(best);
  for (; i < n; ++i) highest = x[i] > highest ? x[i] : highest;
  for (i = 0; i < n; ++i)
    if (x[i] == highest) return i;
  return 0;  // all NaN
}

// NaN counts as a forbidden id, like -inf. Larger keys are larger logits; of equal ones the lower id. Floats
// compare as integers once negative ones are complemented.
inline uint64_t key_of(float x, int id) {
  if (x != x) x = -__builtin_inff();
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits = bits >> 31 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(bits) << 32 | static_cast<uint32_t>(~id);
}
inline int id_of(uint64_t key) { return ~static_cast<int32_t>(key & 0xffffffffu); }

inline void exchange(uint64_t& a, uint64_t& b) {
  const uint64_t t = a;
  a = b, b = t;
}

// Moves the n largest of keys[0 .. size) to the front (Hoare's quickselect, middle of three as pivot).
inline void select_largest(uint64_t* keys, int size, int n) {
  int low = 0, high = size - 1;
  while (low < high) {
    uint64_t &a = keys[low], &b = keys[low + (high - low) / 2], &c = keys[high];
    if (a < b) exchange(a, b);
    if (b < c) exchange(b, c);
    if (a < b) exchange(a, b);
    const uint64_t pivot = b;
    int i = low, j = high;
    while (i <= j) {
      while (keys[i] > pivot) ++i;
      while (keys[j] < pivot) --j;
      if (i <= j) exchange(keys[i++], keys[j--]);
    }
    if (n - 1 <= j)
      high = j;
    else if (n - 1 >= i)
      low = i;
    else
      return;
  }
}

// Descending, for the few hundred that decide (heap sort).
inline void sort_descending(uint64_t* keys, int n) {
  auto sift = [keys](int root, int size) {
    for (int child; (child = 2 * root + 1) < size; root = child) {
      if (child + 1 < size && keys[child + 1] < keys[child]) ++child;
      if (keys[root] <= keys[child]) return;
      exchange(keys[root], keys[child]);
    }
  };
  for (int i = n / 2; i-- > 0;) sift(i, n);
  for (int size = n; --size > 0;) exchange(keys[0], keys[size]), sift(0, size);
}

struct Draw {
  const float* logits;
  int n;
  float highest, inverse_temperature;

  float weight(int id) const {
    const float w = exp1((logits[id] - highest) * inverse_temperature);
    return w > 0 ? w : 0;
  }
  F32 weights(int i) const {  // 16 from i; those past the end are zero
    if (i + 16 <= n) return max(exp((load(logits + i) - set1(highest)) * set1(inverse_temperature)), zero());
    float padded[16] = {};
    for (int k = 0; i + k < n; ++k) padded[k] = weight(i + k);
    return load(padded);
  }
  double mass() const {
    double sum = 0;
    for (int i = 0; i < n; i += 16) sum += hsum(weights(i));
    return sum;
  }
};

// All tokens whose weight reaches `floor`, in the order of their ids.
inline int draw_from_all(const Draw& d, float floor, float uniform) {
  double kept = 0;
  for (int pass = 0;; ++pass) {
    double sum = 0;
    int last = 0;
    for (int i = 0; i < d.n; i += 16) {
      float w[16];
      store(w, d.weights(i));
      for (int k = 0; k < 16 && i + k < d.n; ++k) {
        if (w[k] < floor || w[k] == 0) continue;
        sum += w[k];
        last = i + k;
        if (pass == 1 && sum > uniform * kept) return last;
      }
    }
    if (pass == 1) return last;
    kept = sum;
  }
}

// The shortest run of the largest keys whose mass reaches top_p of the total, sorted; returns its length.
inline int keep_top_p(const Draw& d, uint64_t* keys, int n, float top_p, double total) {
  double sum = 0;
  for (int sorted = 0, block = 64; sorted < n; block *= 4) {
    const int take = block < n - sorted ? block : n - sorted;
    select_largest(keys + sorted, n - sorted, take);
    sort_descending(keys + sorted, take);
    for (const int end = sorted + take; sorted < end;) {
      sum += d.weight(id_of(keys[sorted++]));
      if (sum >= top_p * total) return sorted;
    }
  }
  return n;
}

inline int draw_from_top(const Draw& d, uint64_t* keys, int top_k, float top_p, float floor, float uniform) {
  for (int i = 0; i < d.n; ++i) keys[i] = key_of(d.logits[i], i);
  int n = d.n;
  if (top_k > 0 && top_k < n) {
    select_largest(keys, n, top_k);
    n = top_k;
  }
  if (top_p < 1) {
    double total = 0;
    if (n == d.n)
      total = d.mass();
    else
      for (int i = 0; i < n; ++i) total += d.weight(id_of(keys[i]));
    n = keep_top_p(d, keys, n, top_p, total);
  } else {
    sort_descending(keys, n);
  }
  double kept = 0;
  int n_kept = 0;
  for (; n_kept < n && (n_kept == 0 || d.weight(id_of(keys[n_kept])) >= floor); ++n_kept)
    kept += d.weight(id_of(keys[n_kept]));
  double sum = 0;
  for (int i = 0; i < n_kept; ++i)
    if ((sum += d.weight(id_of(keys[i]))) > uniform * kept) return id_of(keys[i]);
  return id_of(keys[n_kept - 1]);
}

void sample(const SampleArgs& a, const Step& step, const Worker& worker, int begin, int end) {
  for (int r = begin; r < end; ++r) {
    const float* logits = a.logits.row(worker, r);
    const float* how = step.sampling + static_cast<int64_t>(r) * kSamplingCols;
    const float temperature = how[0], top_k = how[1], top_p = how[2], min_p = how[3], uniform = how[4];
    int id = argmax(logits, a.logits.cols);
    if (!(abs1(logits[id]) <= __FLT_MAX__)) {
      *a.out.row(worker, r) = -1;  // infinite, or none is a number: there is nothing to choose by
      continue;
    }
    const float inverse = 1.0f / temperature;
    if (temperature > 0 && inverse <= __FLT_MAX__) {  // a denormal temperature is greedy
      const Draw d{logits, a.logits.cols, logits[id], inverse};
      id = top_k > 0 || top_p < 1 ? draw_from_top(d, reinterpret_cast<uint64_t*>(worker.scratch),
                                                  static_cast<int>(top_k), top_p, min_p, uniform)
                                  : draw_from_all(d, min_p, uniform);
    }
    *a.out.row(worker, r) = id;
  }
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
