#include "text/bpe.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

#include "core/check.h"
#include "core/mapped_file.h"
#include "text/byte_spelling.h"

namespace lanner {
namespace {

uint64_t pair_key(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

uint64_t hash_pair(uint64_t key) { return hash_bytes({reinterpret_cast<const char*>(&key), sizeof key}); }

ModelFileError bad_merge(std::string_view merge, size_t rank, std::string_view what) {
  return ModelFileError(cat("tokenizer.ggml.merges[", rank, "] is '", printable(merge), "': ", what));
}

constexpr size_t kBlock = 32;  // table searches in flight while a vocabulary is read

}  // namespace

Bpe::Bpe(const BpeVocabulary& vocabulary)
    : tokens_(vocabulary.tokens.size()),
      ids_(vocabulary.tokens.size()),
      merges_(vocabulary.merges.size()),
      unk_id_(vocabulary.unk_id),
      ignore_merges_(vocabulary.ignore_merges),
      whole_(new std::atomic<Whole>[vocabulary.tokens.size()]()) {
  add_tokens(vocabulary);
  add_merges(vocabulary.merges);
  for (const std::string_view name : vocabulary.control_names)
    if (const int32_t id = find_token(name); id >= 0) tokens_[id].type = TokenType::kControl;
  add_bytes();
  add_specials();
}

template <class Table>
auto Bpe::find_slot(Table& table, uint64_t hash, std::string_view key) const {
  return table.find(hash, [&](const TokenSlot& slot) {
    return slot.tag == static_cast<uint32_t>(hash) && slot.size == key.size() &&
           std::memcmp(bytes_.data() + slot.begin, key.data(), key.size()) == 0;
  });
}

void Bpe::add_tokens(const BpeVocabulary& vocabulary) {
  const auto& [tokens, types, merges, names, unk_id, ignore_merges] = vocabulary;
  check_vocabulary(tokens, types, unk_id);
  size_t n_bytes = 0;
  for (const std::string_view token : tokens) n_bytes += token.size();
  bytes_.reserve(n_bytes);
  std::array<TokenSlot, kBlock> keys;
  std::array<uint64_t, kBlock> hashes;
  for (size_t first = 0; first < tokens.size(); first += kBlock) {
    const size_t n = std::min(kBlock, tokens.size() - first);
    for (size_t k = 0; k < n; ++k) {
      const int32_t id = static_cast<int32_t>(first + k);
      tokens_[id].type = token_type_at(types, first + k);
      keys[k] = add_token(id, tokens[first + k]);
      hashes[k] = hash_bytes(std::string_view(bytes_).substr(keys[k].begin, keys[k].size));
      ids_.prefetch(hashes[k]);
    }
    for (size_t k = 0; k < n; ++k)
      if (keys[k].size > 0) add_key(hashes[k], keys[k]);
  }
}

// Stores the bytes of a token and returns its key, of size 0 if the text is no spelling.
Bpe::TokenSlot Bpe::add_token(int32_t id, std::string_view spelling) {
  Token& token = tokens_[id];
  const size_t key_begin = bytes_.size();
  token.is_spelled = append_spelled_bytes(spelling, bytes_);
  const size_t key_size = bytes_.size() - key_begin;

  size_t begin = key_begin;
  if (token.type == TokenType::kByte) {
    const char byte = byte_of_token(static_cast<size_t>(id), spelling);
    begin = bytes_.size();
    bytes_.push_back(byte);
  } else if (is_special(token.type) || !token.is_spelled) {
    begin = bytes_.size();
    bytes_.append(spelling);
  }
  token.begin = static_cast<uint32_t>(begin);
  token.size = static_cast<uint32_t>(bytes_.size() - begin);
  return {static_cast<uint32_t>(key_begin), static_cast<uint32_t>(key_size), 0, id};
}

void Bpe::add_key(uint64_t hash, TokenSlot key) {
  key.tag = static_cast<uint32_t>(hash);
  const std::string_view text = std::string_view(bytes_).substr(key.begin, key.size);
  TokenSlot* slot = find_slot(ids_, hash, text);
  if (!slot) throw ModelFileError("tokenizer.ggml.tokens: the texts of the tokens are chosen to collide");
  if (!slot->empty())
    throw ModelFileError(cat("tokenizer.ggml.tokens[", key.id, "] has the same text as token ", slot->id,
                             ": '", printable(text), "'"));
  *slot = key;
}

bool Bpe::is_spelled_as(int32_t id, std::string_view key) const {
  return tokens_[id].type == TokenType::kNormal && tokens_[id].is_spelled && token_bytes(id) == key;
}

void Bpe::add_merges(std::span<const std::string_view> merges) {
  std::array<MergeText, kBlock> texts;
  std::array<MergeSlot, kBlock> slots;
  std::string bytes;
  int32_t id = -1;
  for (size_t first = 0; first < merges.size(); first += kBlock) {
    const size_t n = std::min(kBlock, merges.size() - first);
    bytes.clear();
    for (size_t k = 0; k < n; ++k) texts[k] = read_merge(merges[first + k], first + k, bytes);
    for (size_t k = 0; k < n; ++k) {
      const std::string_view merged = std::string_view(bytes).substr(texts[k].begin, texts[k].size);
      const int32_t left = find_bytes(merged.substr(0, texts[k].left_size), texts[k].left_hash);
      const int32_t right = find_bytes(merged.substr(texts[k].left_size), texts[k].right_hash);
      // Trained vocabularies number their merged tokens in the order of the merges: a guess saves most
      // searches.
      const bool guessed = id + 1 < vocab_size() && is_spelled_as(id + 1, merged);
      id = guessed ? id + 1 : find_bytes(merged);
      if (left < 0 || right < 0 || id < 0)
        throw bad_merge(merges[first + k], first + k,
                        cat(left < 0    ? "the first half"
                            : right < 0 ? "the second half"
                                        : "the result",
                            " is not a token"));
      slots[k] = {pair_key(left, right), static_cast<uint32_t>(first + k), id};
      merges_.prefetch(hash_pair(slots[k].pair));
    }
    for (size_t k = 0; k < n; ++k) add_merge(slots[k]);
  }
}

// Appends the bytes of both halves.
Bpe::MergeText Bpe::read_merge(std::string_view merge, size_t rank, std::string& bytes) const {
  const size_t begin = bytes.size(), space = merge.find(' ');
  if (space == 0 || space >= merge.size() - 1 || !append_spelled_bytes(merge.substr(0, space), bytes))
    throw bad_merge(merge, rank, "two tokens with a space between them were wanted");
  const size_t left_size = bytes.size() - begin;
  if (!append_spelled_bytes(merge.substr(space + 1), bytes))
    throw bad_merge(merge, rank, "the second half is not a token");
  const std::string_view merged = std::string_view(bytes).substr(begin);
  const uint64_t left_hash = hash_bytes(merged.substr(0, left_size));
  const uint64_t right_hash = hash_bytes(merged.substr(left_size));
  ids_.prefetch(left_hash);
  ids_.prefetch(right_hash);
  return {begin, merged.size(), left_size, left_hash, right_hash};
}

void Bpe::add_merge(const MergeSlot& merge) {
  MergeSlot* slot =
      merges_.find(hash_pair(merge.pair), [&](const MergeSlot& s) { return s.pair == merge.pair; });
  if (!slot) throw ModelFileError("tokenizer.ggml.merges: the merges are chosen to collide");
  if (slot->empty()) *slot = merge;  // of equal merges the best rank counts
}

void Bpe::add_bytes() {
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    const int32_t id = find_bytes({&c, 1});
    byte_ids_[byte] = id >= 0 ? id : unk_id_;
  }
  for (int32_t id = 0; id < vocab_size(); ++id) {
    if (tokens_[id].type != TokenType::kByte) continue;
    const uint8_t byte = static_cast<uint8_t>(bytes_[tokens_[id].begin]);
    if (byte_ids_[byte] == unk_id_) byte_ids_[byte] = id;
  }
}

void Bpe::add_specials() {
  std::vector<Literal> user_defined, specials;
  for (int32_t id = 0; id < vocab_size(); ++id) {
    const TokenType type = tokens_[id].type;
    const std::string_view text = token_bytes(id);
    if (!is_special(type) || text.empty()) continue;
    if (!is_utf8(text))
      throw ModelFileError(
          cat("tokenizer.ggml.tokens[", id, "] is '", printable(text), "', which is not UTF-8"));
    specials.push_back({text, id});
    if (type == TokenType::kUserDefined) user_defined.push_back({text, id});
  }
  user_defined_ = Literals(std::move(user_defined));
  specials_ = Literals(std::move(specials));
}

int32_t Bpe::find_bytes(std::string_view bytes) const { return find_bytes(bytes, hash_bytes(bytes)); }

int32_t Bpe::find_bytes(std::string_view bytes, uint64_t hash) const {
  const TokenSlot* slot = find_slot(ids_, hash, bytes);
  return slot ? slot->id : -1;
}

const Bpe::MergeSlot* Bpe::find_merge(int32_t left, int32_t right) const {
  const uint64_t pair = pair_key(left, right);
  const MergeSlot* slot = merges_.find(hash_pair(pair), [&](const MergeSlot& s) { return s.pair == pair; });
  return slot && !slot->empty() ? slot : nullptr;
}

int32_t Bpe::find_token(std::string_view text) const {
  std::string bytes;
  if (append_spelled_bytes(text, bytes)) return find_bytes(bytes);
  for (int32_t id = 0; id < vocab_size(); ++id)
    if (!tokens_[id].is_spelled && token_bytes(id) == text) return id;
  return -1;
}

void Bpe::check_id(int64_t id) const {
  check(id >= 0 && id < vocab_size(), "token id ", id, " is out of range, vocab_size is ", vocab_size());
}

std::string_view Bpe::token_bytes(int64_t id) const {
  check_id(id);
  return std::string_view(bytes_).substr(tokens_[id].begin, tokens_[id].size);
}

TokenType Bpe::token_type(int64_t id) const {
  check_id(id);
  return tokens_[id].type;
}

std::vector<Bpe::Segment> Bpe::split_special(std::string_view text, bool parse_special) const {
  const Literals& literals = parse_special ? specials_ : user_defined_;
  std::vector<Segment> segments;
  size_t done = 0, at = 0;
  while (const Literal* literal = literals.next(text, at)) {
    if (at > done) segments.push_back({done, at, -1});
    done = at + literal->text.size();
    segments.push_back({at, done, literal->id});
    at = done;
  }
  if (done < text.size()) segments.push_back({done, text.size(), -1});
  return segments;
}

void Bpe::encode_pieces(std::string_view text, std::span<const size_t> piece_ends,
                        std::vector<int32_t>& ids) const {
  check(text.size() < UINT32_MAX, "encode: text has ", text.size(), " bytes, less than 4 GB were wanted");
  Scratch scratch;
  size_t begin = 0;
  for (const size_t end : piece_ends) {
    encode_piece(text.substr(begin, end - begin), scratch, ids);
    begin = end;
  }
}

void Bpe::encode_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  const int32_t id = piece.empty() ? -1 : find_bytes(piece);
  if (id >= 0) {
    const bool stays_whole = ignore_merges_ && tokens_[id].type == TokenType::kNormal;
    if (stays_whole || whole_[id].load(std::memory_order_relaxed) == Whole::kYes) return ids.push_back(id);
  }
  const size_t n_before = ids.size();
  if (piece.size() <= kShortPiece)
    merge_short(piece, ids);
  else
    merge_long(piece, scratch, ids);
  if (id >= 0) {
    const bool whole = ids.size() == n_before + 1 && ids.back() == id;
    whole_[id].store(whole ? Whole::kYes : Whole::kNo, std::memory_order_relaxed);
  }
}

int32_t Bpe::byte_id(char byte) const {
  const int32_t id = byte_ids_[static_cast<uint8_t>(byte)];
  check(id >= 0, "encode: byte ", int{static_cast<uint8_t>(byte)},
        " has no token in this vocabulary, which has no unknown token either");
  return id;
}

// Few symbols: looking at every pair after every merge costs less than a heap.
void Bpe::merge_short(std::string_view piece, std::vector<int32_t>& ids) const {
  struct Pair {
    int32_t id;         // of the left symbol
    uint32_t rank;      // of its merge with the next symbol
    int32_t merged_id;  // what that merge gives
  };
  Pair pairs[kShortPiece];
  size_t n = piece.size();
  const auto rank_pair = [&](size_t i) {
    const MergeSlot* merge = i + 1 < n ? find_merge(pairs[i].id, pairs[i + 1].id) : nullptr;
    pairs[i].rank = merge ? merge->rank : kNoRank;
    pairs[i].merged_id = merge ? merge->id : -1;
  };
  for (size_t i = 0; i < n; ++i) pairs[i].id = byte_id(piece[i]);
  for (size_t i = 0; i < n; ++i) rank_pair(i);
  while (n > 1) {
    Pair* best =
        std::min_element(pairs, pairs + n, [](const Pair& a, const Pair& b) { return a.rank < b.rank; });
    if (best->rank == kNoRank) break;
    const size_t i = static_cast<size_t>(best - pairs);
    best->id = best->merged_id;
    std::copy(best + 2, pairs + n, best + 1);
    --n;
    rank_pair(i);
    if (i > 0) rank_pair(i - 1);
  }
  for (size_t i = 0; i < n; ++i) ids.push_back(pairs[i].id);
}

// A heap of (rank, position): the best merge first, the leftmost of equal ones. An entry whose rank is no
// longer that of its position is out of date and skipped.
void Bpe::merge_long(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  const uint32_t n = static_cast<uint32_t>(piece.size());
  auto& [symbols, heap] = scratch;
  symbols.resize(n);
  heap.clear();
  const auto rank_pair = [&, &symbols = symbols, &heap = heap](uint32_t i) {
    Symbol& left = symbols[i];
    const MergeSlot* merge = left.next < n ? find_merge(left.id, symbols[left.next].id) : nullptr;
    left.rank = merge ? merge->rank : kNoRank;
    if (!merge) return;
    left.merged_id = merge->id;
    heap.push_back(uint64_t{merge->rank} << 32 | i);
  };
  for (uint32_t i = 0; i < n; ++i) symbols[i] = {byte_id(piece[i]), i - 1, i + 1, kNoRank, -1};
  for (uint32_t i = 0; i < n; ++i) rank_pair(i);
  std::ranges::make_heap(heap, std::greater{});

  while (!heap.empty()) {
    std::ranges::pop_heap(heap, std::greater{});
    const uint32_t rank = static_cast<uint32_t>(heap.back() >> 32), i = static_cast<uint32_t>(heap.back());
    heap.pop_back();
    Symbol& left = symbols[i];
    if (left.rank != rank) continue;
    left.id = left.merged_id;
    symbols[left.next].rank = kNoRank;  // gone: no entry of the heap matches it any more
    left.next = symbols[left.next].next;
    if (left.next < n) symbols[left.next].previous = i;
    for (const uint32_t changed : {i, left.previous}) {
      const size_t n_entries = heap.size();
      if (changed < n) rank_pair(changed);  // the first symbol has no previous one: UINT32_MAX
      if (heap.size() > n_entries) std::ranges::push_heap(heap, std::greater{});
    }
  }
  for (uint32_t i = 0; i < n; i = symbols[i].next) ids.push_back(symbols[i].id);
}

}  // namespace lanner
