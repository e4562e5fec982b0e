// What `tokenizer.ggml.token_type` says about a token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace lanner {

enum class TokenType : int32_t {  // numbers of the file
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

// Normal where there are no types. Throws ModelFileError for a number that is none.
TokenType token_type_at(std::span<const int32_t> types, size_t id);

// Found in a text where they are spelled out.
inline bool is_special(TokenType type) {
  return type == TokenType::kUnknown || type == TokenType::kControl || type == TokenType::kUserDefined;
}

// Part of a text, not of its protocol.
inline bool is_text(TokenType type) {
  return type == TokenType::kNormal || type == TokenType::kUserDefined || type == TokenType::kByte;
}

// The byte that a token of type kByte, "<0x41>", stands for; -1 if it is written otherwise.
int parse_byte_token(std::string_view text);

// The same; throws ModelFileError naming the token instead.
char byte_of_token(size_t id, std::string_view text);

// Throw ModelFileError where a vocabulary is empty or too large, or where its parts contradict each other.
void check_vocabulary(std::span<const std::string_view> tokens, std::span<const int32_t> types,
                      int32_t unk_id);

}  // namespace lanner
