#include "core/blob_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "core/check.h"
#include "core/mapped_file.h"
#include "core/memory.h"

namespace lanner {
namespace {

constexpr size_t kSlice = size_t{4} << 20;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kAlignment = 64;
// Of an index, a hundred times what that of 4 GB takes: what states more does not get the memory for it.
constexpr size_t kMostIndexBytes = size_t{16} << 20;

struct Trailer {
  char magic[8] = {'l', 'a', 'n', 'n', 'e', 'r', 'p', '1'};
  uint64_t data_bytes = 0;   // of the blobs
  uint64_t index_bytes = 0;  // of what follows them
  uint64_t index_sum = 0;
};

// Reads and writes what lies between blobs and trailer.
struct Cursor {
  std::span<const std::byte> left;
  bool ok = true;

  uint64_t number() {
    uint64_t value = 0;
    if (left.size() < sizeof value) return ok = false, 0;
    std::memcpy(&value, left.data(), sizeof value);
    left = left.subspan(sizeof value);
    return value;
  }
  std::string text() {
    const uint64_t n = number();
    if (n > left.size()) return ok = false, "";
    std::string value(reinterpret_cast<const char*>(left.data()), n);
    left = left.subspan(n);
    return value;
  }
};

void append(std::string& out, uint64_t value) { out.append(reinterpret_cast<const char*>(&value), 8); }
void append(std::string& out, std::string_view text) {
  append(out, uint64_t{text.size()});
  out.append(text);
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

size_t n_slices_of(size_t n_bytes) { return (n_bytes + kSlice - 1) / kSlice; }

bool read_at(int fd, size_t offset, std::span<std::byte> to) {
  while (!to.empty()) {
    const ssize_t n = ::pread(fd, to.data(), to.size(), static_cast<off_t>(offset));
    if (n <= 0) return false;
    to = to.subspan(static_cast<size_t>(n)), offset += static_cast<size_t>(n);
  }
  return true;
}

// A regular file of the user who asks. Its size goes to `n_bytes`.
bool is_ours(int fd, size_t* n_bytes = nullptr) {
  struct stat status{};
  if (::fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) || status.st_uid != ::geteuid()) return false;
  if (n_bytes) *n_bytes = static_cast<size_t>(status.st_size);
  return true;
}

// Writes one piece after the other in slices that begin at multiples of their size: a file system that has
// large pages then gives large ones.
class Writer {
 public:
  // A file of its own, that nobody else reads or can have put there: PATH.*.tmp.
  explicit Writer(const std::string& path) : path_(path + ".XXXXXX.tmp") {
    buffer_.reserve(kSlice);
    fd_ = ::mkostemps(path_.data(), 4, O_CLOEXEC);
    if (fd_ < 0) throw FileError(errno, path);
    if (is_ours(fd_)) return;
    ::close(fd_), ::unlink(path_.c_str());
    throw FileError(EPERM, path);  // on a file system that gives files to others: nobody would read it
  }
  ~Writer() {
    if (fd_ >= 0) ::close(fd_);
    if (!is_renamed_) ::unlink(path_.c_str());
  }

  void add(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      if (buffer_.size() == kSlice) flush();
      const size_t n = std::min(bytes.size(), kSlice - buffer_.size());
      buffer_.insert(buffer_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(n));
      bytes = bytes.subspan(n);
    }
  }
  void align() { buffer_.resize(std::min(kSlice, round_up(buffer_.size(), kAlignment))); }
  // The slices so far, the last one as short as it is.
  std::vector<uint64_t> end_slices() {
    if (!buffer_.empty()) flush();
    return std::exchange(sums_, {});
  }
  size_t position() const { return written_ + buffer_.size(); }

  void rename_to(const std::string& path) {
    if (!buffer_.empty()) flush();
    if (::close(std::exchange(fd_, -1)) != 0 || std::rename(path_.c_str(), path.c_str()) != 0)
      throw FileError(errno, path_);
    is_renamed_ = true;
  }

 private:
  void flush() {
    sums_.push_back(checksum(buffer_));
    for (size_t done = 0; done < buffer_.size();) {
      const ssize_t n = ::write(fd_, buffer_.data() + done, buffer_.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) throw FileError(n < 0 ? errno : ENOSPC, path_);
      done += static_cast<size_t>(n);
    }
    written_ += buffer_.size();
    buffer_.clear();
  }

  std::string path_;
  int fd_ = -1;
  bool is_renamed_ = false;
  std::vector<std::byte> buffer_;
  std::vector<uint64_t> sums_;
  size_t written_ = 0;
};

}  // namespace

// Eight sums side by side, so that memory and not the latency of a multiplication is the limit.
uint64_t checksum(std::span<const std::byte> bytes) {
  constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15;  // odd: no bit of a sum is lost
  constexpr size_t kLanes = 8;
  uint64_t sums[kLanes] = {1, 2, 3, 4, 5, 6, 7, 8}, words[kLanes];
  size_t at = 0;
  const auto mix = [&] {
    for (size_t i = 0; i < kLanes; ++i) sums[i] = std::rotl((sums[i] ^ words[i]) * kMultiplier, 29);
  };
  for (; at + sizeof words <= bytes.size(); at += sizeof words) {
    std::memcpy(words, bytes.data() + at, sizeof words);
    mix();
  }
  std::memset(words, 0, sizeof words);
  if (at < bytes.size()) std::memcpy(words, bytes.data() + at, bytes.size() - at);
  mix();
  uint64_t sum = bytes.size();
  for (const uint64_t lane : sums) sum = std::rotl((sum ^ lane) * kMultiplier, 29);
  return sum ^ sum >> 32;
}

std::unique_ptr<BlobFile> BlobFile::open(const std::string& path, std::string_view subject) {
  const Descriptor opened(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW));
  size_t n_bytes = 0;
  std::unique_ptr<BlobFile> file(new BlobFile);
  return is_ours(opened.fd, &n_bytes) && file->read(opened.fd, n_bytes, subject) ? std::move(file) : nullptr;
}

bool BlobFile::read(int fd, size_t n_bytes, std::string_view subject) {
  const Trailer wanted;
  Trailer trailer;
  if (n_bytes < sizeof trailer ||
      !read_at(fd, n_bytes - sizeof trailer, std::as_writable_bytes(std::span(&trailer, 1))))
    return false;
  const size_t room = n_bytes - sizeof trailer;
  if (std::memcmp(trailer.magic, wanted.magic, sizeof wanted.magic) != 0 ||
      trailer.index_bytes > std::min(room, kMostIndexBytes) ||
      trailer.data_bytes != room - trailer.index_bytes || trailer.data_bytes == 0)
    return false;
  std::vector<std::byte> index(trailer.index_bytes);
  if (!read_at(fd, trailer.data_bytes, index) || checksum(index) != trailer.index_sum) return false;
  Cursor cursor{index};
  if (cursor.text() != subject) return false;
  n_bytes_ = trailer.data_bytes;
  for (size_t i = 0; i < n_slices_of(n_bytes_) && cursor.ok; ++i) sums_.push_back(cursor.number());
  for (uint64_t end = 0; cursor.ok && !cursor.left.empty();) {
    std::string key = cursor.text();
    const uint64_t offset = cursor.number(), size = cursor.number();
    if (offset < end || offset > n_bytes_ || size > n_bytes_ - offset || offset % kAlignment != 0)
      return false;
    end = offset + size;
    index_.emplace(std::move(key), std::pair{offset, size});
  }
  if (!cursor.ok) return false;
  n_reserved_ = n_bytes_ + kHugePage;
  void* reserved = mmap(nullptr, n_reserved_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return false;
  reserved_ = static_cast<std::byte*>(reserved);
  data_ = reserved_ +
          (round_up(reinterpret_cast<size_t>(reserved_), kHugePage) - reinterpret_cast<size_t>(reserved_));
  if (mmap(data_, n_bytes_, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0) == MAP_FAILED) return false;
  madvise(data_, n_bytes_, MADV_HUGEPAGE);
  return true;
}

BlobFile::~BlobFile() {
  if (reserved_) munmap(reserved_, n_reserved_);
}

std::span<std::byte> BlobFile::take(const std::string& key) {
  const auto found = index_.extract(key);
  if (found.empty()) return {};
  return {data_ + found.mapped().first, found.mapped().second};
}

void BlobFile::check_slice(size_t slice) {
  const size_t begin = slice * kSlice, n = std::min(kSlice, n_bytes_ - begin);
  if (checksum({data_ + begin, n}) != sums_[slice]) is_damaged_.store(true, std::memory_order_relaxed);
}

void BlobFile::replace() {
  if (mmap(data_, n_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0) ==
      MAP_FAILED)
    throw OutOfMemoryBudget(cat("memory: the system refused ", n_bytes_, " bytes"));
  madvise(data_, n_bytes_, MADV_HUGEPAGE);
}

void write_blobs(const std::string& path, std::string_view subject, const std::vector<Blob>& blobs) {
  Writer writer(path);
  std::string places;
  for (const Blob& blob : blobs) {
    writer.align();
    append(places, blob.key);
    append(places, uint64_t{writer.position()});
    append(places, uint64_t{blob.bytes.size()});
    writer.add(blob.bytes);
  }
  Trailer trailer;
  const std::vector<uint64_t> sums = writer.end_slices();
  trailer.data_bytes = writer.position();
  std::string index;
  append(index, subject);
  for (const uint64_t sum : sums) append(index, sum);
  index += places;
  trailer.index_bytes = index.size();
  trailer.index_sum = checksum(bytes_of(index));
  writer.add(bytes_of(index));
  writer.add(std::as_bytes(std::span(&trailer, 1)));
  writer.rename_to(path);
}

}  // namespace lanner
