// GGUF version 2 and 3, read in place: the specification is docs/gguf.md of ggml-org/ggml. Names, strings,
// arrays and tensors are views into the mapped file and live as long as the Gguf that they came from.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/dtype.h"
#include "core/mapped_file.h"

namespace lanner {

// The order is the number of the type in the file.
enum class ValueType : uint32_t { U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64 };

const char* type_name(ValueType type);

// The strings of a string array, one after the other; the walk was bounded when the file was opened.
class StringRange {
 public:
  class Iterator {
   public:
    using value_type = std::string_view;
    using difference_type = std::ptrdiff_t;
    using iterator_category = std::input_iterator_tag;

    Iterator() = default;
    explicit Iterator(const std::byte* at) : at_(at) {}
    std::string_view operator*() const { return {reinterpret_cast<const char*>(at_) + 8, length()}; }
    Iterator& operator++() { return at_ += 8 + length(), *this; }
    Iterator operator++(int) { return std::exchange(*this, ++Iterator(*this)); }
    bool operator==(const Iterator&) const = default;

   private:
    uint64_t length() const {
      uint64_t n;
      std::memcpy(&n, at_, sizeof n);
      return n;
    }
    const std::byte* at_ = nullptr;
  };

  explicit StringRange(std::span<const std::byte> bytes) : bytes_(bytes) {}
  Iterator begin() const { return Iterator(bytes_.data()); }
  Iterator end() const { return Iterator(bytes_.data() + bytes_.size()); }

 private:
  std::span<const std::byte> bytes_;
};

struct Array {
  ValueType element_type;
  uint64_t count;                    // elements
  std::span<const std::byte> bytes;  // elements as stored: packed, not aligned

  // element_type is String.
  StringRange strings() const { return StringRange(bytes); }

  // element_type is Array.
  std::vector<Array> arrays() const;

  // element_type is the number that T stores, out.size() == count.
  template <class T>
  void copy_to(std::span<T> out) const {
    if (count) std::memcpy(out.data(), bytes.data(), count * sizeof(T));
  }

  // Element i < count; element_type is the number that T stores.
  template <class T>
  T at(uint64_t i) const {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    return value;
  }
};

// Scalars are widened; `type` says what the file stores.
struct Value {
  ValueType type;
  std::variant<uint64_t, int64_t, double, bool, std::string_view, Array> data;

  // nullptr where the value is of another kind: get_if<std::string_view>(), get_if<Array>(), ...
  template <class T>
  const T* get_if() const {
    return std::get_if<T>(&data);
  }
};

struct Entry {
  std::string_view name;  // the key
  Value value;
};

inline constexpr uint32_t kMaxDims = 4;  // as many as ggml has

struct TensorInfo {
  std::string_view name;
  Format format;
  uint32_t n_dims;                      // 1..kMaxDims
  std::array<uint64_t, kMaxDims> dims;  // file order: dims[0] is the row, contiguous; 1 beyond n_dims
  uint64_t offset;                      // of the data, from the start of the file
  const std::byte* data;
  size_t n_bytes;

  uint64_t n_rows() const { return dims[1] * dims[2] * dims[3]; }
};

class Gguf {
 public:
  // Throws FileError, ModelFileError (malformed), UnsupportedModelError (version, byte order, tensor type).
  explicit Gguf(std::string path);

  const std::string& path() const { return file_->path(); }
  const std::shared_ptr<MappedFile>& shared_file() const { return file_; }
  size_t n_bytes() const { return file_->n_bytes(); }
  uint32_t version() const { return version_; }
  uint32_t alignment() const { return alignment_; }  // of tensor data, in bytes

  // File order.
  std::span<const Entry> entries() const { return entries_; }
  std::span<const TensorInfo> tensors() const { return tensors_; }

  // nullptr where the file has no such key or tensor.
  const Value* find(std::string_view key) const;
  const TensorInfo* tensor(std::string_view name) const;

  // Throw ModelFileError naming the file and the key or tensor where it is missing or of another kind.
  const Array& array(std::string_view key) const;
  const Array& array(std::string_view key, ValueType element_type) const;
  const TensorInfo& require_tensor(std::string_view name) const;

 private:
  std::shared_ptr<MappedFile> file_;
  uint32_t version_;
  uint32_t alignment_;
  std::vector<Entry> entries_;
  std::vector<TensorInfo> tensors_;
  std::vector<const Entry*> entries_by_name_;
  std::vector<const TensorInfo*> tensors_by_name_;
};

}  // namespace lanner
