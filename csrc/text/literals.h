// A set of fixed strings (the special tokens) searched for in a text.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace lanner {

struct Literal {
  std::string_view text;  // not empty, UTF-8; a view that outlives the set
  int32_t id;
};

class Literals {
 public:
  // A longer literal could make a search quadratic in practice: a position costs at most this many
  // comparisons.
  static constexpr size_t kMaxBytes = 1024;

  // Throws ModelFileError when two literals have the same text or one is longer than kMaxBytes.
  explicit Literals(std::vector<Literal> literals = {});

  // The leftmost literal at or after `from`, the longest of those that start there; nullptr if there is none.
  // On success `from` is where it starts.
  const Literal* next(std::string_view text, size_t& from) const;

 private:
  const Literal* longest_at(std::string_view text) const;

  std::vector<Literal> sorted_;  // by text
  std::array<uint32_t, 257>
      first_byte_{};  // literals that start with byte b: sorted_[first_byte_[b] .. [b + 1])
};

}  // namespace lanner
