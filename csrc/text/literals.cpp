#include "text/literals.h"

#include <algorithm>

#include "core/check.h"

namespace lanner {

Literals::Literals(std::vector<Literal> literals) : sorted_(std::move(literals)) {
  std::ranges::sort(sorted_, {}, &Literal::text);
  for (size_t i = 0; i < sorted_.size(); ++i) {
    if (sorted_[i].text.size() > kMaxBytes)
      throw ModelFileError(cat("tokenizer: special token ", sorted_[i].id, " has ", sorted_[i].text.size(),
                               " bytes, at most ", kMaxBytes, " were wanted"));
    if (i > 0 && sorted_[i].text == sorted_[i - 1].text)
      throw ModelFileError(cat("tokenizer: special tokens ", sorted_[i - 1].id, " and ", sorted_[i].id,
                               " have the same text"));
    ++first_byte_[static_cast<uint8_t>(sorted_[i].text[0]) + 1];
  }
  for (size_t b = 0; b < 256; ++b) first_byte_[b + 1] += first_byte_[b];
}

const Literal* Literals::next(std::string_view text, size_t& from) const {
  if (sorted_.empty()) return nullptr;
  for (size_t at = from; at < text.size(); ++at) {
    const uint8_t byte = static_cast<uint8_t>(text[at]);
    if (first_byte_[byte] == first_byte_[byte + 1]) continue;
    if (const Literal* literal = longest_at(text.substr(at))) {
      from = at;
      return literal;
    }
  }
  return nullptr;
}

// Narrows the range of literals that share a growing prefix with the text; the shortest of a range comes
// first.
const Literal* Literals::longest_at(std::string_view text) const {
  const auto byte_at = [](size_t depth) {
    return [depth](const Literal& literal) { return static_cast<uint8_t>(literal.text[depth]); };
  };
  const uint8_t first = static_cast<uint8_t>(text[0]);
  std::span<const Literal> range(sorted_.data() + first_byte_[first],
                                 sorted_.data() + first_byte_[first + 1]);
  const Literal* longest = nullptr;
  for (size_t depth = 1; !range.empty(); ++depth) {
    if (range.front().text.size() == depth) {
      longest = &range.front();
      range = range.subspan(1);
    }
    if (depth == text.size()) break;
    const auto equal = std::ranges::equal_range(range, static_cast<uint8_t>(text[depth]), {}, byte_at(depth));
    range = std::span<const Literal>(equal.begin(), equal.end());
  }
  return longest;
}

}  // namespace lanner
