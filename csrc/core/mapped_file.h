// A whole file mapped for reading, and the bytes of files as error messages may show them.
#pragma once

#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

namespace lanner {

// The operating system refused the file; Python sees the OSError subclass of the number, with the path.
struct FileError : std::runtime_error {
  FileError(int number, std::string name);

  int error_number;
  std::string path;
};

// Closes it. -1, which open() returns for an error, is none.
struct Descriptor {
  explicit Descriptor(int number) : fd(number) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor();

  const int fd;
};

// Pages come in when they are touched and go back to the page cache on release(). Another process that
// shortens the file while it is mapped takes the pages away: model files are replaced, never rewritten.
class MappedFile {
 public:
  // Throws FileError (missing, folder, no permission) or ModelFileError (empty, not a regular file).
  explicit MappedFile(std::string path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::string& path() const { return path_; }
  // Of the file as it was opened: size, times of the last change of its bytes and of anything about it, and
  // which file it is. Whoever changes the bytes can set the first time back, but not the second.
  const std::string& state() const { return state_; }
  const std::byte* data() const { return data_; }
  size_t n_bytes() const { return n_bytes_; }
  std::span<const std::byte> bytes() const { return {data_, n_bytes_}; }

  // Takes the pages that lie whole inside [begin, begin + n_bytes) out of this process: for a tensor whose
  // packed copy is in use. Reading them again is correct and faults them back in. Bytes that are not of this
  // file stay as they are.
  void release(const std::byte* begin, size_t n_bytes) const;

 private:
  std::string path_, state_;
  const std::byte* data_ = nullptr;
  size_t n_bytes_ = 0;
};

bool is_utf8(std::string_view bytes);

// Valid UTF-8 without control characters, whatever the bytes are: others are shown as \xNN. A name longer
// than this is cut, so that a hostile file cannot fill the screen.
inline constexpr size_t kMaxShownBytes = 96;
std::string printable(std::string_view bytes, size_t max_bytes = kMaxShownBytes);

}  // namespace lanner
