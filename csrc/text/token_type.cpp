#include "text/token_type.h"

#include "core/check.h"
#include "core/mapped_file.h"

namespace lanner {
namespace {

int hex_digit(char c) {
  return c >= '0' && c <= '9'   ? c - '0'
         : c >= 'A' && c <= 'F' ? c - 'A' + 10
         : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                : -1;
}

}  // namespace

TokenType token_type_at(std::span<const int32_t> types, size_t id) {
  const int32_t type = types.empty() ? static_cast<int32_t>(TokenType::kNormal) : types[id];
  if (type < static_cast<int32_t>(TokenType::kNormal) || type > static_cast<int32_t>(TokenType::kByte))
    throw ModelFileError(cat("tokenizer.ggml.token_type[", id, "] is ", type, ", 1 to 6 were wanted"));
  return static_cast<TokenType>(type);
}

int parse_byte_token(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  const int high = hex_digit(text[3]), low = hex_digit(text[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

char byte_of_token(size_t id, std::string_view text) {
  const int byte = parse_byte_token(text);
  if (byte < 0)
    throw ModelFileError(cat("tokenizer.ggml.tokens[", id, "] is '", printable(text),
                             "', a byte token was wanted, such as '<0x0A>'"));
  return static_cast<char>(byte);
}

void check_vocabulary(std::span<const std::string_view> tokens, std::span<const int32_t> types,
                      int32_t unk_id) {
  size_t n_bytes = 0;
  for (const std::string_view token : tokens) n_bytes += token.size();
  // Offsets are 32 bits wide; a token is stored at most twice.
  if (tokens.empty() || tokens.size() > INT32_MAX || n_bytes > UINT32_MAX / 2)
    throw ModelFileError(cat("tokenizer.ggml.tokens has ", tokens.size(), " tokens of ", n_bytes,
                             " bytes, at least one token and at most 2 GB were wanted"));
  if (!types.empty() && types.size() != tokens.size())
    throw ModelFileError(cat("tokenizer.ggml.token_type has ", types.size(),
                             " elements, tokenizer.ggml.tokens has ", tokens.size()));
  if (unk_id >= static_cast<int64_t>(tokens.size()))
    throw ModelFileError(
        cat("tokenizer.ggml.unknown_token_id is ", unk_id, ", vocab_size is ", tokens.size()));
}

}  // namespace lanner
