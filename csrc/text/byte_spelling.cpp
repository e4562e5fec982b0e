#include "text/byte_spelling.h"

#include <array>
#include <cstddef>
#include <cstdint>

namespace lanner {
namespace {

// The bytes that Latin-1 can show spell themselves; the other 68, ascending, are spelled U+0100, U+0101, ...
constexpr bool spells_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr size_t kSpelledEnd = 0x100 + 68;  // one past the last code point that spells a byte

constexpr std::array<int16_t, kSpelledEnd> kByteOf = [] {
  std::array<int16_t, kSpelledEnd> byte_of;
  byte_of.fill(-1);
  size_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte)
    byte_of[spells_itself(byte) ? byte : next++] = static_cast<int16_t>(byte);
  return byte_of;
}();

}  // namespace

bool append_spelled_bytes(std::string_view spelling, std::string& bytes) {
  const size_t old_size = bytes.size();
  bytes.resize(old_size + spelling.size());  // no byte takes less than one
  char* out = bytes.data() + old_size;
  for (size_t i = 0; i < spelling.size(); ++i) {
    const uint8_t lead = static_cast<uint8_t>(spelling[i]);
    size_t code_point = lead;
    if (lead >= 0x80) {  // all that spell a byte lie below U+0800: two bytes of UTF-8
      const bool two = lead >= 0xC2 && lead <= 0xDF && i + 1 < spelling.size() &&
                       (static_cast<uint8_t>(spelling[i + 1]) & 0xC0) == 0x80;
      code_point = two ? (lead & 0x1Fu) << 6 | (static_cast<uint8_t>(spelling[++i]) & 0x3Fu) : kSpelledEnd;
    }
    if (code_point >= kSpelledEnd || kByteOf[code_point] < 0) return bytes.resize(old_size), false;
    *out++ = static_cast<char>(kByteOf[code_point]);
  }
  bytes.resize(static_cast<size_t>(out - bytes.data()));
  return true;
}

}  // namespace lanner
