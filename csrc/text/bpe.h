// Byte-level byte-pair encoding (Sennrich et al. 2016 on bytes, as GPT-2 does): vocabulary, merges, special
// tokens.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/literals.h"
#include "text/probe_table.h"
#include "text/token_type.h"

namespace lanner {

// What a model file says. The views need to live only while Bpe's constructor runs.
struct BpeVocabulary {
  std::span<const std::string_view>
      tokens;                            // in GPT-2's byte-to-unicode spelling; special ones as plain text
  std::span<const int32_t> token_types;  // a TokenType per token, or none: all normal
  std::span<const std::string_view> merges;         // "A B", best first
  std::span<const std::string_view> control_names;  // tokens that are control whatever their type says
  int32_t unk_id = -1;                              // stands for a byte that has no token; -1: none
  bool ignore_merges = false;  // a piece that is a token stays whole even if no merge makes it
};

// Immutable after construction apart from a memo of atomics: every method may run in many threads at once.
class Bpe {
 public:
  struct Segment {  // bytes [begin, end) of a text; id >= 0: they are that special token
    size_t begin, end;
    int32_t id;
  };

  // Throws ModelFileError, naming the entry, for a token type out of range, a duplicate token, a special
  // token that is not UTF-8, and a merge whose halves or result are not tokens.
  explicit Bpe(const BpeVocabulary& vocabulary);
  Bpe(const Bpe&) = delete;  // the special tokens are views into bytes_
  Bpe& operator=(const Bpe&) = delete;

  // Appends the ids of a text cut into pieces; piece i ends before byte piece_ends[i] and no merge crosses an
  // end. O(n log n) in the length of a piece. Throws std::invalid_argument for a byte that has no token when
  // there is no unknown token either.
  void encode_pieces(std::string_view text, std::span<const size_t> piece_ends,
                     std::vector<int32_t>& ids) const;

  // Cuts UTF-8 text at its special tokens: user-defined ones always; control and unknown ones if
  // parse_special. Leftmost first, the longest of those that start there.
  std::vector<Segment> split_special(std::string_view text, bool parse_special) const;

  // The bytes that a token stands for. Throws std::invalid_argument for an id out of range.
  std::string_view token_bytes(int64_t id) const;
  TokenType token_type(int64_t id) const;
  int32_t vocab_size() const { return static_cast<int32_t>(tokens_.size()); }

  // The id of the token that the file writes as `text`, or -1.
  int32_t find_token(std::string_view text) const;

 private:
  struct Token {
    uint32_t begin, size;  // in bytes_: what the token stands for
    TokenType type;
    bool is_spelled;  // found by its key, the spelling read as bytes; false for text outside the byte map
  };
  struct TokenSlot {
    uint32_t begin = 0, size = 0;  // in bytes_: the key
    uint32_t tag = 0;              // low half of the key's hash
    int32_t id = -1;
    bool empty() const { return id < 0; }
  };
  struct MergeSlot {
    uint64_t pair = 0;
    uint32_t rank = 0;
    int32_t id = -1;
    bool empty() const { return id < 0; }
  };
  struct MergeText {  // the bytes of "A B" in a buffer
    size_t begin, size, left_size;
    uint64_t left_hash, right_hash;
  };
  struct Symbol {  // of a long piece: a doubly linked list over the positions of its bytes
    int32_t id;
    uint32_t previous, next;
    uint32_t rank;      // of the merge with the next symbol, kNoRank: none
    int32_t merged_id;  // what that merge gives
  };
  struct Scratch {
    std::vector<Symbol> symbols;
    std::vector<uint64_t> heap;
  };
  enum class Whole : uint8_t { kUntried, kYes, kNo };

  static constexpr uint32_t kNoRank = UINT32_MAX;
  static constexpr size_t kShortPiece = 48;

  void add_tokens(const BpeVocabulary& vocabulary);
  TokenSlot add_token(int32_t id, std::string_view spelling);
  void add_key(uint64_t hash, TokenSlot key);
  void add_merges(std::span<const std::string_view> merges);
  MergeText read_merge(std::string_view merge, size_t rank, std::string& bytes) const;
  void add_merge(const MergeSlot& merge);
  void add_specials();
  void add_bytes();
  template <class Table>
  auto find_slot(Table& table, uint64_t hash, std::string_view key) const;
  int32_t find_bytes(std::string_view bytes) const;
  int32_t find_bytes(std::string_view bytes, uint64_t hash) const;
  bool is_spelled_as(int32_t id, std::string_view key) const;  // false for all but normal tokens
  const MergeSlot* find_merge(int32_t left, int32_t right) const;
  void check_id(int64_t id) const;
  int32_t byte_id(char byte) const;

  void encode_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;
  void merge_short(std::string_view piece, std::vector<int32_t>& ids) const;
  void merge_long(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;

  std::string bytes_;  // keys and texts of all tokens, one after the other
  std::vector<Token> tokens_;
  ProbeTable<TokenSlot> ids_;
  ProbeTable<MergeSlot> merges_;
  std::array<int32_t, 256> byte_ids_;  // unk_id_ for a byte without a token
  Literals user_defined_, specials_;   // specials_ contains user_defined_
  int32_t unk_id_;
  bool ignore_merges_;
  // Whether merging a token's own bytes gives that token back: tried when a piece first equals it.
  std::unique_ptr<std::atomic<Whole>[]> whole_;
};

}  // namespace lanner
