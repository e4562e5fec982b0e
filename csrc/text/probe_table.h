// Open addressing for the two tables of a tokenizer: token bytes -> id and pair of ids -> merge.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace lanner {

// Multiplicative hash of eight bytes at a time. Not keyed: ProbeTable bounds what a chosen collision can
// cost.
inline uint64_t hash_bytes(std::string_view bytes) {
  constexpr uint64_t kMultiplier =
      0x9E3779B97F4A7C15;  // 2^64 / golden ratio, odd: no bit of the input is lost
  uint64_t hash = bytes.size() * kMultiplier;
  const char* p = bytes.data();
  size_t n = bytes.size();
  for (; n >= 8; p += 8, n -= 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    hash = std::rotl((hash ^ word) * kMultiplier, 31);
  }
  uint64_t tail = 0;
  std::memcpy(&tail, p, n);
  hash = (hash ^ tail) * kMultiplier;
  return (hash ^ (hash >> 32)) * kMultiplier;  // the table takes its index from the high bits
}

// Linear probing at a load of at most one half. A Slot is default-constructed empty and has empty().
// An entry lives at most kMaxProbes slots from its home: at this load an honest table needs a few dozen, so a
// longer run means keys chosen to collide, and the bound keeps both building and searching linear in their
// number.
template <class Slot>
class ProbeTable {
 public:
  static constexpr size_t kMaxProbes = 1024;

  explicit ProbeTable(size_t n_entries = 0)
      : log2_capacity_(static_cast<int>(std::bit_width(2 * n_entries + 1))),
        slots_(size_t{1} << log2_capacity_) {}

  // Starts reading the home of a hash: searches that are announced together wait for memory together.
  void prefetch(uint64_t hash) const { __builtin_prefetch(&slots_[home(hash)]); }

  // The slot for which same(slot) holds, else the empty one that ends the search; nullptr when the bound was
  // hit.
  template <class Same>
  const Slot* find(uint64_t hash, Same same) const {
    const size_t mask = slots_.size() - 1;
    size_t index = home(hash);
    for (size_t probe = 0; probe < kMaxProbes; ++probe, index = (index + 1) & mask)
      if (slots_[index].empty() || same(slots_[index])) return &slots_[index];
    return nullptr;
  }

  template <class Same>
  Slot* find(uint64_t hash, Same same) {
    return const_cast<Slot*>(static_cast<const ProbeTable*>(this)->find(hash, same));
  }

 private:
  size_t home(uint64_t hash) const { return hash >> (64 - log2_capacity_); }

  int log2_capacity_;
  std::vector<Slot> slots_;
};

}  // namespace lanner
