// Logits as integers that are ordered as they are, and the two ways to bring few of many in order.
#pragma once

#include "simd/vec.h"

namespace lanner::LANNER_ISA_NS {
namespace {

// Floats compare as integers once negative ones are complemented.
inline uint32_t ordered_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
inline float of_ordered_bits(uint32_t bits) {
  bits = bits >> 31 ? bits & 0x7fffffffu : ~bits;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// NaN counts as a forbidden id, like -inf. Larger keys are larger logits; of equal ones the lower id.
inline uint64_t key_of(float x, int id) {
  if (x != x) x = -__builtin_inff();
  return static_cast<uint64_t>(ordered_bits(x)) << 32 | static_cast<uint32_t>(~id);
}

inline int id_of(uint64_t key) { return ~static_cast<int32_t>(key & 0xffffffffu); }

inline void exchange(uint64_t& a, uint64_t& b) {
  const uint64_t t = a;
  a = b, b = t;
}

// keys[low .. high] become: larger than the pivot or equal, [low, left_end); equal, [left_end, right);
// smaller or equal, [right, high] (Hoare's partition, middle of three as pivot).
struct Parted {
  int left_end, right;
};
inline Parted part_descending(uint64_t* keys, int low, int high) {
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
  return {j + 1, i};
}

// Moves the n largest of keys[0 .. size) to the front.
inline void select_largest(uint64_t* keys, int size, int n) {
  int low = 0, high = size - 1;
  while (low < high) {
    const Parted parted = part_descending(keys, low, high);
    if (n <= parted.left_end)
      high = parted.left_end - 1;
    else if (n > parted.right)
      low = parted.right;
    else
      return;
  }
}

// Descending (quicksort; heap sort where its parts stay too large).
inline void heap_sort_descending(uint64_t* keys, int n) {
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
inline void sort_descending(uint64_t* keys, int n, int depth = 40) {
  while (n > 16) {
    if (depth-- == 0) return heap_sort_descending(keys, n);
    const Parted parted = part_descending(keys, 0, n - 1);
    sort_descending(keys + parted.right, n - parted.right, depth);
    n = parted.left_end;
  }
  for (int i = 1; i < n; ++i) {
    const uint64_t key = keys[i];
    int j = i;
    for (; j > 0 && keys[j - 1] < key; --j) keys[j] = keys[j - 1];
    keys[j] = key;
  }
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
