#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>
#include <utility>

#include "core/check.h"

namespace lanner {
namespace {

std::string state_of(const struct stat& s) {
#ifdef __APPLE__
  const timespec &written = s.st_mtimespec, &changed = s.st_ctimespec;
#else
  const timespec &written = s.st_mtim, &changed = s.st_ctim;
#endif
  return cat(s.st_size, " ", written.tv_sec, ".", written.tv_nsec, " ", changed.tv_sec, ".", changed.tv_nsec,
             " ", s.st_dev, " ", s.st_ino);
}

std::string shown_path(std::string_view path) { return printable(path, path.size()); }

// Bytes of the UTF-8 sequence that starts with `lead`, 0 where none does.
size_t sequence_bytes(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead < 0xC2) return 0;
  if (lead < 0xE0) return 2;
  if (lead < 0xF0) return 3;
  return lead < 0xF5 ? 4 : 0;
}

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

}  // namespace

FileError::FileError(int number, std::string name)
    : std::runtime_error(cat(shown_path(name), ": ", std::generic_category().message(number))),
      error_number(number),
      path(std::move(name)) {}

Descriptor::~Descriptor() {
  if (fd >= 0) ::close(fd);
}

MappedFile::MappedFile(std::string path) : path_(std::move(path)) {
  // Without O_NONBLOCK, opening a pipe would wait for a writer.
  const Descriptor file(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status{};
  if (file.fd < 0 || ::fstat(file.fd, &status) != 0) throw FileError(errno, path_);
  if (S_ISDIR(status.st_mode)) throw FileError(EISDIR, path_);
  if (!S_ISREG(status.st_mode)) throw ModelFileError(cat(shown_path(path_), ": is not a regular file"));
  if (status.st_size == 0) throw ModelFileError(cat(shown_path(path_), ": the file is empty"));

  const auto n_bytes = static_cast<size_t>(status.st_size);
  void* data = ::mmap(nullptr, n_bytes, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (data == MAP_FAILED) throw FileError(errno, path_);
  data_ = static_cast<const std::byte*>(data);
  n_bytes_ = n_bytes;
  state_ = state_of(status);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      state_(std::move(other.state_)),
      data_(std::exchange(other.data_, nullptr)),
      n_bytes_(std::exchange(other.n_bytes_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(state_, other.state_);
  std::swap(data_, other.data_);
  std::swap(n_bytes_, other.n_bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), n_bytes_);
}

void MappedFile::release(const std::byte* begin, size_t n_bytes) const {
  static const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<uintptr_t>(begin);
  const auto start = reinterpret_cast<uintptr_t>(data_);
  // What is not ours is not touched: anonymous pages would come back as zeros.
  if (address < start || address + n_bytes > start + n_bytes_) return;
  const uintptr_t first = (address + page - 1) / page * page;
  const uintptr_t last = (address + n_bytes) / page * page;
  // A failure costs memory, not correctness.
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

// Table 3-7 of the Unicode standard: shortest forms only, no surrogates, nothing above U+10FFFF.
bool is_utf8(std::string_view bytes) {
  constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};  // code point by number of bytes
  for (size_t i = 0; i < bytes.size();) {
    const auto lead = static_cast<unsigned char>(bytes[i]);
    const size_t n = sequence_bytes(lead);
    if (n == 0 || n > bytes.size() - i) return false;
    uint32_t code = n == 1 ? lead : lead & (0x7Fu >> n);
    for (size_t k = 1; k < n; ++k) {
      if (!is_continuation(bytes[i + k])) return false;
      code = code << 6 | (static_cast<unsigned char>(bytes[i + k]) & 0x3Fu);
    }
    const bool is_surrogate = code >= 0xD800 && code < 0xE000;
    if (code < kSmallest[n] || code > 0x10FFFF || is_surrogate) return false;
    i += n;
  }
  return true;
}

std::string printable(std::string_view bytes, size_t max_bytes) {
  constexpr char kHex[] = "0123456789abcdef";
  size_t n = bytes.size();
  if (n > max_bytes)
    for (n = max_bytes; n > 0 && is_continuation(bytes[n]);) --n;
  const bool escape_high = !is_utf8(bytes.substr(0, n));
  std::string out;
  for (const char c : bytes.substr(0, n)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F || (byte >= 0x80 && escape_high))
      out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    else
      out += c;
  }
  return n < bytes.size() ? out + "..." : out;
}

}  // namespace lanner
