#include "text/spm.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <utility>

#include "core/check.h"
#include "core/mapped_file.h"

namespace lanner {
namespace {

constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581

constexpr size_t kBlock = 32;  // table searches in flight while a vocabulary is read

// Bytes of the character that starts with this byte of valid UTF-8.
uint32_t character_size(char lead) {
  const uint8_t byte = static_cast<uint8_t>(lead);
  return byte < 0xC0 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

// A number that is the smaller the higher the score. kNoRank would be that of a NaN.
uint32_t rank_of(float score) {
  const uint32_t bits = std::bit_cast<uint32_t>(score + 0.0f);  // no negative zero
  return ~(bits ^ (bits >> 31 ? UINT32_MAX : uint32_t{1} << 31));
}

// The first byte at or after `at` that is no whitespace, as C knows it.
size_t skip_spaces(std::string_view escaped, size_t at) {
  for (;;) {
    if (escaped.substr(at).starts_with(kSpace))
      at += kSpace.size();
    else if (at < escaped.size() && escaped[at] >= '\t' && escaped[at] <= '\r')
      ++at;
    else
      return at;
  }
}

void append_unescaped(std::string_view text, std::string& out) {
  for (size_t at = 0; at < text.size();) {
    const size_t space = std::min(text.find(kSpace, at), text.size());
    out.append(text, at, space - at);
    if (space < text.size()) out += ' ';
    at = space + kSpace.size();
  }
}

}  // namespace

Spm::Spm(const SpmVocabulary& vocabulary)
    : owner_(vocabulary.owner),
      tokens_(vocabulary.tokens.size()),
      ids_(vocabulary.tokens.size()),
      unk_id_(vocabulary.unk_id),
      add_space_prefix_(vocabulary.add_space_prefix),
      remove_extra_whitespaces_(vocabulary.remove_extra_whitespaces),
      whole_(new std::atomic<Whole>[vocabulary.tokens.size()]()) {
  add_tokens(vocabulary);
  for (const std::string_view name : vocabulary.control_names)
    if (const int32_t id = find_token(name); id >= 0)
      tokens_[id].type = static_cast<uint32_t>(TokenType::kControl);
  if (vocabulary.spaces_stay_after) {
    spaces_stay_after_.emplace();
    for (const std::string_view name : *vocabulary.spaces_stay_after)
      spaces_stay_after_->push_back(find_token(name));
  }
  add_bytes();
  add_specials();
}

void Spm::add_tokens(const SpmVocabulary& vocabulary) {
  const auto& [tokens, scores, types, names, unk_id, prefix, remove, stay, owner] = vocabulary;
  check_vocabulary(tokens, types, unk_id);
  if (scores.size() != tokens.size())
    throw ModelFileError(cat("tokenizer.ggml.scores has ", scores.size(),
                             " elements, tokenizer.ggml.tokens has ", tokens.size()));
  std::array<uint64_t, kBlock> hashes;
  for (size_t first = 0; first < tokens.size(); first += kBlock) {
    const size_t n = std::min(kBlock, tokens.size() - first);
    for (size_t k = 0; k < n; ++k) {
      const size_t id = first + k;
      const std::string_view text = tokens[id];
      const bool is_byte = types.empty() && parse_byte_token(text) >= 0;
      const TokenType type = is_byte ? TokenType::kByte : token_type_at(types, id);
      if (text.size() > kMaxTokenBytes)
        throw ModelFileError(cat("tokenizer.ggml.tokens[", id, "] has ", text.size(), " bytes, at most ",
                                 kMaxTokenBytes, " were wanted"));
      if (std::isnan(scores[id]))
        throw ModelFileError(cat("tokenizer.ggml.scores[", id, "] is not a number"));
      if (type == TokenType::kNormal) note_inner_spaces(text);
      tokens_[id] = {text.data(), static_cast<uint32_t>(text.size()), static_cast<uint32_t>(type),
                     scores[id]};
      hashes[k] = hash_bytes(text);
      ids_.prefetch(hashes[k]);
    }
    for (size_t k = 0; k < n; ++k)
      if (tokens_[first + k].size > 0) add_slot(hashes[k], static_cast<int32_t>(first + k));
  }
}

void Spm::add_slot(uint64_t hash, int32_t id) {
  const std::string_view text = tokens_[id].view();
  const Slot* slot = find_slot(text, hash);
  if (!slot) throw ModelFileError("tokenizer.ggml.tokens: the texts of the tokens are chosen to collide");
  if (!slot->empty())
    throw ModelFileError(cat("tokenizer.ggml.tokens[", id, "] has the same text as token ", slot->id, ": '",
                             printable(text), "'"));
  *const_cast<Slot*>(slot) = {static_cast<uint32_t>(hash), id};
}

void Spm::note_inner_spaces(std::string_view text) {
  max_size_ = std::max(max_size_, text.size());
  for (size_t at = text.find(kSpace, 1); at < text.size(); at = text.find(kSpace, at + kSpace.size()))
    joins_space_[static_cast<uint8_t>(text[at - 1])] = true;
}

void Spm::add_bytes() {
  byte_ids_.fill(-1);
  for (int32_t id = 0; id < vocab_size(); ++id) {
    if (tokens_[id].kind() != TokenType::kByte) continue;
    const uint8_t byte = static_cast<uint8_t>(byte_of_token(static_cast<size_t>(id), tokens_[id].view()));
    if (byte_ids_[byte] < 0) byte_ids_[byte] = id;
  }
}

// Special tokens are searched for where spaces are U+2581 already, and so are they.
void Spm::add_specials() {
  std::vector<Literal> user_defined, specials;
  std::vector<std::pair<size_t, size_t>> ranges;  // in literal_texts_, for those that have a space
  for (int32_t id = 0; id < vocab_size(); ++id) {
    const Token& token = tokens_[id];
    const std::string_view text = token.view();
    if (!is_special(token.kind()) || text.empty()) continue;
    if (!is_utf8(text))
      throw ModelFileError(
          cat("tokenizer.ggml.tokens[", id, "] is '", printable(text), "', which is not UTF-8"));
    const size_t begin = literal_texts_.size();
    if (text.find(' ') != std::string_view::npos)
      for (const char c : text) literal_texts_ += c == ' ' ? kSpace : std::string_view(&c, 1);
    ranges.emplace_back(begin, literal_texts_.size() - begin);
    specials.push_back({text, id});
  }
  for (size_t i = 0; i < specials.size(); ++i) {
    const auto [begin, size] = ranges[i];
    if (size > 0) specials[i].text = std::string_view(literal_texts_).substr(begin, size);
    if (tokens_[specials[i].id].kind() == TokenType::kUserDefined) user_defined.push_back(specials[i]);
  }
  user_defined_ = Literals(std::move(user_defined));
  specials_ = Literals(std::move(specials));
}

const Spm::Slot* Spm::find_slot(std::string_view text, uint64_t hash) const {
  return ids_.find(hash, [&](const Slot& slot) {
    return slot.tag == static_cast<uint32_t>(hash) && tokens_[slot.id].view() == text;
  });
}

int32_t Spm::find_token(std::string_view text) const {
  const Slot* slot = find_slot(text, hash_bytes(text));
  return slot ? slot->id : -1;
}

// Special tokens are found before, and no text may spell a byte token or an unused one.
int32_t Spm::find_mergeable(std::string_view text) const {
  const int32_t id = find_token(text);
  return id >= 0 && tokens_[id].kind() == TokenType::kNormal ? id : -1;
}

bool Spm::takes_spaces(int32_t special_id) const {
  return spaces_stay_after_ && std::ranges::count(*spaces_stay_after_, special_id) == 0;
}

void Spm::check_id(int64_t id) const {
  check(id >= 0 && id < vocab_size(), "token id ", id, " is out of range, vocab_size is ", vocab_size());
}

TokenType Spm::token_type(int64_t id) const {
  check_id(id);
  return tokens_[id].kind();
}

void Spm::append_bytes(int64_t id, std::string& out) const {
  const TokenType type = token_type(id);
  const std::string_view text = tokens_[id].view();
  if (type == TokenType::kByte)
    out += byte_of_token(static_cast<size_t>(id), text);
  else if (is_text(type))
    append_unescaped(text, out);
  else
    out += text;
}

std::string Spm::escaped(std::string_view text) const {
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  if (remove_extra_whitespaces_) {
    const auto is_space = [](char c) { return c == ' '; };
    text.remove_prefix(static_cast<size_t>(std::ranges::find_if_not(text, is_space) - text.begin()));
    while (text.ends_with(' ')) text.remove_suffix(1);
  }
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != ' ')
      out += text[i];
    else if (!remove_extra_whitespaces_ || text[i - 1] != ' ')
      out += kSpace;
  }
  return out;
}

void Spm::encode(std::string_view text, bool parse_special, std::vector<int32_t>& ids) const {
  check(text.size() < UINT32_MAX / 3 - 1, "encode: text has ", text.size(),
        " bytes, less than 1.4 GB were wanted");
  const std::string whole = escaped(text);
  const std::string_view view = whole;
  const Literals& literals = parse_special ? specials_ : user_defined_;
  Scratch scratch;
  bool follows_special = true;
  const auto encode_text = [&](std::string_view segment) {
    if (segment.empty()) return;
    if (add_space_prefix_ && follows_special)
      encode_segment(std::string(kSpace).append(segment), scratch, ids);
    else
      encode_segment(segment, scratch, ids);
    follows_special = false;
  };
  size_t done = 0, at = 0;
  while (const Literal* literal = literals.next(view, at)) {
    encode_text(view.substr(done, at - done));
    ids.push_back(literal->id);
    follows_special = true;
    done = at += literal->text.size();
    if (takes_spaces(literal->id)) done = at = skip_spaces(view, at);
  }
  encode_text(view.substr(done));
}

// Cut where no token could join what lies on both sides, which is before nearly every space: words merge
// alike in any surroundings, and most of them are tokens.
void Spm::encode_segment(std::string_view segment, Scratch& scratch, std::vector<int32_t>& ids) const {
  scratch.follows_unknown = false;
  size_t begin = 0;
  for (size_t at = segment.find(kSpace, 1); at < segment.size();
       at = segment.find(kSpace, at + kSpace.size())) {
    if (joins_space_[static_cast<uint8_t>(segment[at - 1])]) continue;
    encode_word(segment.substr(begin, at - begin), scratch, ids);
    begin = at;
  }
  encode_word(segment.substr(begin), scratch, ids);
}

void Spm::encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const {
  const int32_t id = word.size() <= max_size_ ? find_mergeable(word) : -1;
  if (id >= 0 && whole_[id].load(std::memory_order_relaxed) == Whole::kYes)
    return append_ids(word, id, scratch, ids);
  auto& symbols = scratch.symbols;
  split_characters(word, symbols);
  const bool is_short = symbols.size() <= kShortWord;
  if (is_short)
    merge_short(word, symbols);
  else
    merge_long(word, scratch);
  if (id >= 0)
    whole_[id].store(symbols[0].size == word.size() ? Whole::kYes : Whole::kNo, std::memory_order_relaxed);
  for (uint32_t i = 0; i < symbols.size(); i = is_short ? i + 1 : symbols[i].next) {
    const std::string_view text = word.substr(symbols[i].begin, symbols[i].size);
    append_ids(text, symbols[i].id >= 0 ? symbols[i].id : find_mergeable(text), scratch, ids);
  }
}

// The id of a token, or what stands for a character that is none.
void Spm::append_ids(std::string_view text, int32_t id, Scratch& scratch, std::vector<int32_t>& ids) const {
  if (id < 0 && !append_byte_ids(text, ids)) {
    check(unk_id_ >= 0, "encode: '", printable(text),
          "' has no token in this vocabulary, which has no unknown token either");
    if (!scratch.follows_unknown) ids.push_back(unk_id_);  // one for a whole run, as in SentencePiece
    scratch.follows_unknown = true;
    return;
  }
  if (id >= 0) ids.push_back(id);
  scratch.follows_unknown = false;
}

void Spm::split_characters(std::string_view word, std::vector<Symbol>& symbols) const {
  symbols.clear();
  const uint32_t n_bytes = static_cast<uint32_t>(word.size());
  for (uint32_t at = 0; at < n_bytes;) {
    const uint32_t size = std::min(character_size(word[at]), n_bytes - at);
    const uint32_t i = static_cast<uint32_t>(symbols.size());
    symbols.push_back({at, size, i - 1, i + 1, kNoRank, -1, -1});
    at += size;
  }
}

void Spm::rank_pair(std::string_view word, Symbol& left, uint32_t right_size) const {
  const size_t size = left.size + right_size;
  left.merged_id = size <= max_size_ ? find_mergeable(word.substr(left.begin, size)) : -1;
  left.rank = left.merged_id < 0 ? kNoRank : rank_of(tokens_[left.merged_id].score);
}

// Few symbols: looking at every pair after every merge costs less than a heap. Leaves the symbols without
// gaps.
void Spm::merge_short(std::string_view word, std::vector<Symbol>& symbols) const {
  for (size_t i = 0; i + 1 < symbols.size(); ++i) rank_pair(word, symbols[i], symbols[i + 1].size);
  while (symbols.size() > 1) {
    const auto best = std::ranges::min_element(symbols, {}, &Symbol::rank);
    if (best->rank == kNoRank) break;
    best->id = best->merged_id;
    best->size += (best + 1)->size;
    symbols.erase(best + 1);
    if (best + 1 == symbols.end())
      best->rank = kNoRank;
    else
      rank_pair(word, *best, (best + 1)->size);
    if (best != symbols.begin()) rank_pair(word, *(best - 1), best->size);
  }
}

// A heap of (rank, position): the best score first, the leftmost of equal ones. An entry whose rank is no
// longer that of its position is out of date and skipped; one whose rank is that again stands for the new
// pair.
void Spm::merge_long(std::string_view word, Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  const uint32_t n = static_cast<uint32_t>(symbols.size());
  heap.clear();
  const auto add_pair = [&](uint32_t i) {
    Symbol& left = symbols[i];
    left.rank = kNoRank;
    if (left.next < n) rank_pair(word, left, symbols[left.next].size);
    if (left.rank != kNoRank) heap.push_back(uint64_t{left.rank} << 32 | i);
  };
  for (uint32_t i = 0; i < n; ++i) add_pair(i);
  std::ranges::make_heap(heap, std::greater{});

  while (!heap.empty()) {
    std::ranges::pop_heap(heap, std::greater{});
    const uint32_t rank = static_cast<uint32_t>(heap.back() >> 32), i = static_cast<uint32_t>(heap.back());
    heap.pop_back();
    Symbol& left = symbols[i];
    if (left.rank != rank) continue;
    Symbol& right = symbols[left.next];
    left.id = left.merged_id;
    left.size += right.size;
    right.rank = kNoRank;  // gone: no entry of the heap matches it any more
    left.next = right.next;
    if (left.next < n) symbols[left.next].previous = i;
    for (const uint32_t changed : {i, left.previous}) {
      const size_t n_entries = heap.size();
      if (changed < n) add_pair(changed);  // the first symbol has no previous one: UINT32_MAX
      if (heap.size() > n_entries) std::ranges::push_heap(heap, std::greater{});
    }
  }
}

bool Spm::append_byte_ids(std::string_view character, std::vector<int32_t>& ids) const {
  const auto byte_id = [&](char c) { return byte_ids_[static_cast<uint8_t>(c)]; };
  if (std::ranges::any_of(character, [&](char c) { return byte_id(c) < 0; })) return false;
  for (const char c : character) ids.push_back(byte_id(c));
  return true;
}

}  // namespace lanner
