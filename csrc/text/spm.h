// SentencePiece's byte-pair encoding (Kudo and Richardson 2018), as GGUF stores it for Llama 2, Mistral and
// Gemma: no pre-tokenizer and no merges; two neighbours join where their text is a token, the best score
// first.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/literals.h"
#include "text/probe_table.h"
#include "text/token_type.h"

namespace lanner {

// What a model file says. The spans need to live only while Spm's constructor runs, the bytes of the tokens
// as long as `owner`.
struct SpmVocabulary {
  std::span<const std::string_view> tokens;  // with U+2581 for a space
  std::span<const float> scores;             // one for each token
  std::span<const int32_t> token_types;  // a TokenType per token, or none: normal, and byte where so spelled
  std::span<const std::string_view> control_names;  // tokens that are control whatever their type says
  int32_t unk_id = -1;                              // stands for a character without tokens; -1: none
  bool add_space_prefix = true;                     // a space before a text and after each special token
  bool remove_extra_whitespaces = false;            // spaces at the ends, and all but one of a run
  // Whitespace after a special token belongs to it, but for tokens of these names; nullopt: it is text.
  std::optional<std::span<const std::string_view>> spaces_stay_after;
  std::shared_ptr<const void> owner;
};

// Immutable after construction apart from a memo of atomics: every method may run in many threads at once.
class Spm {
 public:
  // Throws ModelFileError, naming the entry, for a token type out of range, a duplicate token, a special
  // token that is not UTF-8, a byte token that names no byte, and a score that is no number.
  explicit Spm(const SpmVocabulary& vocabulary);
  Spm(const Spm&) = delete;  // special tokens may be views into literal_texts_
  Spm& operator=(const Spm&) = delete;

  // Appends the ids of UTF-8 text. User-defined tokens are found before anything is merged, control and
  // unknown ones too if parse_special: the leftmost first, the longest of those that start there. O(n log n).
  // Throws std::invalid_argument for a character that has neither tokens nor an unknown token.
  void encode(std::string_view text, bool parse_special, std::vector<int32_t>& ids) const;

  // Appends the bytes that a token stands for. Throws std::invalid_argument for an id out of range.
  void append_bytes(int64_t id, std::string& out) const;
  TokenType token_type(int64_t id) const;
  int32_t vocab_size() const { return static_cast<int32_t>(tokens_.size()); }
  bool add_space_prefix() const { return add_space_prefix_; }

  // The id of the token that the file writes as `text`, or -1.
  int32_t find_token(std::string_view text) const;

 private:
  struct Token {
    const char* text;
    uint32_t size : 29;
    uint32_t type : 3;
    float score;

    std::string_view view() const { return {text, size}; }
    TokenType kind() const { return static_cast<TokenType>(type); }
  };
  struct Slot {
    uint32_t tag = 0;  // low half of the text's hash
    int32_t id = -1;
    bool empty() const { return id < 0; }
  };
  struct Symbol {  // bytes [begin, begin + size) of a segment: a doubly linked list
    uint32_t begin, size;
    uint32_t previous, next;
    uint32_t rank;      // of joining it with the next symbol, kNoRank: they cannot be joined
    int32_t id;         // -1: a character that was not looked up
    int32_t merged_id;  // what joining gives
  };
  struct Scratch {
    std::vector<Symbol> symbols;
    std::vector<uint64_t> heap;
    bool follows_unknown = false;
  };
  enum class Whole : uint8_t { kUntried, kYes, kNo };

  static constexpr uint32_t kNoRank = UINT32_MAX;
  static constexpr uint32_t kShortWord = 32;                  // characters
  static constexpr uint32_t kMaxTokenBytes = (1u << 29) - 1;  // what Token::size holds

  void add_tokens(const SpmVocabulary& vocabulary);
  void add_slot(uint64_t hash, int32_t id);
  void note_inner_spaces(std::string_view text);
  void add_bytes();
  void add_specials();
  const Slot* find_slot(std::string_view text, uint64_t hash) const;
  int32_t find_mergeable(std::string_view text) const;
  bool takes_spaces(int32_t special_id) const;
  void check_id(int64_t id) const;

  std::string escaped(std::string_view text) const;
  void encode_segment(std::string_view segment, Scratch& scratch, std::vector<int32_t>& ids) const;
  void encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const;
  void split_characters(std::string_view word, std::vector<Symbol>& symbols) const;
  void rank_pair(std::string_view word, Symbol& left, uint32_t right_size) const;
  void merge_short(std::string_view word, std::vector<Symbol>& symbols) const;
  void merge_long(std::string_view word, Scratch& scratch) const;
  void append_ids(std::string_view text, int32_t id, Scratch& scratch, std::vector<int32_t>& ids) const;
  bool append_byte_ids(std::string_view character, std::vector<int32_t>& ids) const;

  std::shared_ptr<const void> owner_;
  std::vector<Token> tokens_;
  ProbeTable<Slot> ids_;
  std::array<int32_t, 256> byte_ids_;    // -1 for a byte without a token
  size_t max_size_ = 0;                  // bytes of the longest token that merging can give
  std::array<bool, 256> joins_space_{};  // a token has a space after a character that ends in this byte
  std::string literal_texts_;            // special tokens as they stand in escaped text
  Literals user_defined_, specials_;     // specials_ contains user_defined_
  int32_t unk_id_;
  bool add_space_prefix_, remove_extra_whitespaces_;
  std::optional<std::vector<int32_t>> spaces_stay_after_;
  // Whether merging a token's own text gives that token back: tried when a word first equals it.
  std::unique_ptr<std::atomic<Whole>[]> whole_;
};

}  // namespace lanner
