// GPT-2 writes a byte-level token as Unicode text, a printable character for each byte.
#pragma once

#include <string>
#include <string_view>

namespace lanner {

// Appends the bytes that `spelling` stands for. False, with `bytes` as it was, if some character spells no
// byte.
bool append_spelled_bytes(std::string_view spelling, std::string& bytes);

}  // namespace lanner
