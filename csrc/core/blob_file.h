// A file of blobs by key, written once and mapped ever after. Whoever opens it says what it must stand for;
// every slice has a checksum, so that a damaged one is found before it is used.
//
// The blobs come first, from offset 0 on, each at a multiple of 64: pages of 2 MB of the file can then be
// mapped as such. Then the subject, the checksums of the slices, the index, and a trailer that finds them.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace lanner {

// Of accidents, not of malice: any change of up to 8 bytes in a row is found, others but for one in 2^64.
uint64_t checksum(std::span<const std::byte> bytes);

struct Blob {
  std::string key;
  std::span<const std::byte> bytes;
};

// As with MappedFile, another process that shortens the file takes pages away that are then read: files of
// this kind belong to the user, are written under another name, and are replaced, never rewritten.
class BlobFile {
 public:
  // nullptr where there is no such file, or it is a link, another user's or not of this subject, or its index
  // contradicts itself.
  static std::unique_ptr<BlobFile> open(const std::string& path, std::string_view subject);
  BlobFile(const BlobFile&) = delete;
  BlobFile& operator=(const BlobFile&) = delete;
  ~BlobFile();

  // Bytes of a blob that was not taken yet, not yet checked; empty where there is none. They are read-only
  // until replace().
  std::span<std::byte> take(const std::string& key);

  // Slices may be checked in any order, by several threads.
  size_t n_slices() const { return sums_.size(); }
  void check_slice(size_t slice);
  bool is_damaged() const { return is_damaged_.load(std::memory_order_relaxed); }

  // Takes memory of zeros, which can be written, in the place of all blobs. Throws OutOfMemoryBudget.
  void replace();

 private:
  BlobFile() = default;
  bool read(int fd, size_t n_bytes, std::string_view subject);

  std::byte* reserved_ = nullptr;  // address space, more than the blobs take
  std::byte* data_ = nullptr;      // of the blobs, at a multiple of 2 MB
  size_t n_reserved_ = 0, n_bytes_ = 0;
  std::vector<uint64_t> sums_;
  std::unordered_multimap<std::string, std::pair<uint64_t, uint64_t>> index_;  // offset, size; not yet taken
  std::atomic<bool> is_damaged_{false};
};

// Replaces `path` at once or not at all. Throws FileError.
void write_blobs(const std::string& path, std::string_view subject, const std::vector<Blob>& blobs);

}  // namespace lanner
