#include "formats/gguf.h"

#include <algorithm>
#include <bit>

#include "core/check.h"

namespace lanner {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF numbers are copied as they are stored");

constexpr uint32_t kMinVersion = 2;  // version 1 counts in 32 bits
constexpr uint32_t kMaxVersion = 3;
constexpr uint32_t kDefaultAlignment = 32;   // of the specification
constexpr uint32_t kMinAlignment = 8;        // the specification wants a multiple of 8
constexpr uint32_t kMaxAlignment = 1 << 21;  // a huge page; more could only waste space
constexpr int kMaxNesting = 4;  // arrays in arrays are legal and unused; this bounds the recursion

// An entry is at least a key of one letter, a type and one byte; a tensor is at least a name of one letter,
// the number of dimensions, one of them, a type and an offset.
constexpr uint64_t kMinEntryBytes = (8 + 1) + 4 + 1;
constexpr uint64_t kMinTensorBytes = (8 + 1) + 4 + 8 + 4 + 8;

struct ValueTypeInfo {
  const char* name;
  uint32_t min_bytes;  // exact but for strings (their length) and arrays (type and count)
};

constexpr ValueTypeInfo kValueTypes[] = {
    {"u8", 1},   {"i8", 1},     {"u16", 2},    {"i16", 2}, {"u32", 4}, {"i32", 4}, {"f32", 4},
    {"bool", 1}, {"string", 8}, {"array", 12}, {"u64", 8}, {"i64", 8}, {"f64", 8},
};

const ValueTypeInfo& info(ValueType type) { return kValueTypes[static_cast<uint32_t>(type)]; }

// A position in the file that never passes its end. Errors name the file and the entry or tensor being read.
class Reader {
 public:
  Reader(std::string_view path, std::span<const std::byte> bytes) : path_(path), bytes_(bytes) {}

  void set_subject(const char* kind, std::string_view name) { kind_ = kind, name_ = name; }
  size_t position() const { return position_; }
  size_t remaining() const { return bytes_.size() - position_; }

  template <class Error = ModelFileError, class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    const std::string subject = *kind_ ? cat(kind_, " '", printable(name_), "': ") : "";
    throw Error(cat(printable(path_, path_.size()), ": ", subject, parts...));
  }

  template <class T>
  T number(const char* what) {
    if (sizeof(T) > remaining())
      fail("the file ends inside the ", what, " at byte ", position_, ": is it truncated?");
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  // A count of things that take at least min_bytes each: what the rest of the file cannot hold is refused.
  uint64_t count(const char* what, uint64_t min_bytes) {
    const auto n = number<uint64_t>(what);
    if (n > remaining() / min_bytes)
      fail("the ", what, " is ", n, ", the ", remaining(), " bytes left hold at most ",
           remaining() / min_bytes);
    return n;
  }

  std::string_view string(const char* what) {
    const uint64_t n = count(what, 1);
    const auto* begin = reinterpret_cast<const char*>(bytes_.data() + position_);
    position_ += n;
    return {begin, n};
  }

  std::string_view name(const char* kind) {
    set_subject("", {});
    const size_t at = position_;
    const std::string_view name = string(kind);
    if (name.empty()) fail("the name at byte ", at, " is empty");
    if (!is_utf8(name)) fail("the name at byte ", at, " is not UTF-8: '", printable(name), "'");
    return name;
  }

  ValueType value_type(const char* what) {
    const auto type = number<uint32_t>(what);
    if (type >= std::size(kValueTypes))
      fail("the ", what, " is ", type, ", the largest known is ", std::size(kValueTypes) - 1);
    return ValueType{type};
  }

  bool boolean(std::byte stored) const {
    if (stored > std::byte{1}) fail("a bool is stored as ", std::to_integer<int>(stored), ", wanted 0 or 1");
    return stored != std::byte{0};
  }

  Array array(int depth) {
    const ValueType type = value_type("type of array elements");
    const uint64_t n = count("number of array elements", info(type).min_bytes);
    const size_t begin = position_;
    if (type == ValueType::String) {
      for (uint64_t i = 0; i < n; ++i) string("length of a string");
    } else if (type == ValueType::Array) {
      if (depth == kMaxNesting) fail("arrays are nested deeper than ", kMaxNesting);
      for (uint64_t i = 0; i < n; ++i) array(depth + 1);
    } else {
      position_ += n * info(type).min_bytes;
    }
    const auto elements = bytes_.subspan(begin, position_ - begin);
    if (type == ValueType::Bool)
      for (const std::byte stored : elements) boolean(stored);
    return {type, n, elements};
  }

  Value value() {
    const ValueType type = value_type("type of the value");
    switch (type) {
      case ValueType::U8:
        return {type, uint64_t{number<uint8_t>("value")}};
      case ValueType::I8:
        return {type, int64_t{number<int8_t>("value")}};
      case ValueType::U16:
        return {type, uint64_t{number<uint16_t>("value")}};
      case ValueType::I16:
        return {type, int64_t{number<int16_t>("value")}};
      case ValueType::U32:
        return {type, uint64_t{number<uint32_t>("value")}};
      case ValueType::I32:
        return {type, int64_t{number<int32_t>("value")}};
      case ValueType::U64:
        return {type, number<uint64_t>("value")};
      case ValueType::I64:
        return {type, number<int64_t>("value")};
      case ValueType::F32:
        return {type, double{number<float>("value")}};
      case ValueType::F64:
        return {type, number<double>("value")};
      case ValueType::Bool:
        return {type, boolean(number<std::byte>("value"))};
      case ValueType::String:
        return {type, string("length of the string")};
      case ValueType::Array:
        break;
    }
    return {type, array(1)};
  }

 private:
  std::string_view path_;
  std::span<const std::byte> bytes_;
  size_t position_ = 0;
  const char* kind_ = "";
  std::string_view name_;
};

uint32_t read_version(Reader& reader) {
  const auto magic = reader.number<std::array<char, 4>>("magic");
  const std::string_view shown(magic.data(), magic.size());
  if (shown != "GGUF")
    reader.fail("is not a GGUF file: it starts with '", printable(shown), "', wanted 'GGUF'");
  const auto version = reader.number<uint32_t>("version");
  if (version != 0 && version << 16 == 0)  // a small number with its bytes in the other order
    reader.fail<UnsupportedModelError>("the file is big-endian, wanted little-endian");
  if (version < kMinVersion || version > kMaxVersion)
    reader.fail<UnsupportedModelError>("the GGUF version is ", version, ", wanted ", kMinVersion, " or ",
                                       kMaxVersion);
  return version;
}

Entry read_entry(Reader& reader) {
  const std::string_view key = reader.name("length of a metadata key");
  reader.set_subject("metadata key", key);
  return {key, reader.value()};
}

uint32_t checked_alignment(Reader& reader, const Value* value) {
  if (!value) return kDefaultAlignment;
  reader.set_subject("metadata key", "general.alignment");
  if (value->type != ValueType::U32) reader.fail("the type is ", type_name(value->type), ", wanted u32");
  const uint64_t alignment = *value->get_if<uint64_t>();
  if (!std::has_single_bit(alignment) || alignment < kMinAlignment || alignment > kMaxAlignment)
    reader.fail("the value is ", alignment, ", wanted a power of two from ", kMinAlignment, " to ",
                kMaxAlignment);
  return static_cast<uint32_t>(alignment);
}

uint64_t checked_n_bytes(const Reader& reader, const TensorInfo& tensor) {
  const FormatInfo& format = info(tensor.format);
  if (tensor.dims[0] % format.block != 0)
    reader.fail("a row has ", tensor.dims[0], " elements, ", format.name, " wants a multiple of ",
                format.block);
  uint64_t n = tensor.dims[0] / format.block;
  bool overflows = __builtin_mul_overflow(n, uint64_t{format.bytes}, &n);
  for (uint32_t d = 1; d < tensor.n_dims; ++d) overflows |= __builtin_mul_overflow(n, tensor.dims[d], &n);
  if (overflows) {
    std::string shape;
    for (uint32_t d = 0; d < tensor.n_dims; ++d) shape += cat(d ? " x " : "", tensor.dims[d]);
    reader.fail("the size of ", shape, " elements of ", format.name, " overflows 64 bits");
  }
  return n;
}

// The offset stays relative to the data section, which starts after the last of these.
TensorInfo read_tensor(Reader& reader) {
  TensorInfo tensor{};
  tensor.name = reader.name("length of a tensor name");
  reader.set_subject("tensor", tensor.name);
  tensor.n_dims = reader.number<uint32_t>("number of dimensions");
  if (tensor.n_dims < 1 || tensor.n_dims > kMaxDims)
    reader.fail("the number of dimensions is ", tensor.n_dims, ", wanted 1 to ", kMaxDims);
  tensor.dims.fill(1);
  for (uint32_t d = 0; d < tensor.n_dims; ++d) {
    tensor.dims[d] = reader.number<uint64_t>("dimensions");
    if (tensor.dims[d] == 0) reader.fail("dimension ", d, " is 0");
  }
  const auto type = reader.number<uint32_t>("type");
  const FormatInfo* format = format_from_ggml_id(type);
  if (!format) reader.fail<UnsupportedModelError>("type number ", type, " is none of the supported formats");
  tensor.format = format->format;
  tensor.offset = reader.number<uint64_t>("offset");
  tensor.n_bytes = checked_n_bytes(reader, tensor);
  return tensor;
}

// Makes offsets absolute and sets `data`, once they are known to be aligned and inside the file.
void place_tensors(Reader& reader, const MappedFile& file, uint32_t alignment,
                   std::span<TensorInfo> tensors) {
  const uint64_t data_begin = (reader.position() + alignment - 1) / alignment * alignment;
  const uint64_t data_bytes = file.n_bytes() > data_begin ? file.n_bytes() - data_begin : 0;
  for (TensorInfo& tensor : tensors) {
    reader.set_subject("tensor", tensor.name);
    if (tensor.offset % alignment != 0)
      reader.fail("the offset ", tensor.offset, " is not a multiple of the alignment ", alignment);
    if (tensor.offset > data_bytes || tensor.n_bytes > data_bytes - tensor.offset)
      reader.fail(tensor.n_bytes, " bytes at offset ", tensor.offset, " run past the end of the ", data_bytes,
                  " bytes of tensor data: is the file truncated?");
    tensor.offset += data_begin;
    tensor.data = file.data() + tensor.offset;
  }
}

void check_overlaps(Reader& reader, std::span<const TensorInfo> tensors) {
  std::vector<const TensorInfo*> by_offset;
  for (const TensorInfo& tensor : tensors) by_offset.push_back(&tensor);
  std::ranges::sort(by_offset, {}, &TensorInfo::offset);
  for (size_t i = 1; i < by_offset.size(); ++i) {
    const TensorInfo &before = *by_offset[i - 1], &after = *by_offset[i];
    reader.set_subject("tensor", after.name);
    if (before.offset + before.n_bytes > after.offset)
      reader.fail("the data overlaps that of tensor '", printable(before.name), "'");
  }
}

// Pointers to the items in the order of their names, for lookup(). Duplicates are refused.
template <class Item>
std::vector<const Item*> index_by_name(Reader& reader, const char* kind, std::span<const Item> items) {
  std::vector<const Item*> index;
  for (const Item& item : items) index.push_back(&item);
  std::ranges::sort(index, {}, &Item::name);
  const auto twice = std::ranges::adjacent_find(index, {}, &Item::name);
  if (twice != index.end()) {
    reader.set_subject(kind, (*twice)->name);
    reader.fail("occurs more than once");
  }
  return index;
}

template <class Item>
const Item* lookup(const std::vector<const Item*>& index, std::string_view name) {
  const auto at = std::ranges::lower_bound(index, name, {}, &Item::name);
  return at != index.end() && (*at)->name == name ? *at : nullptr;
}

}  // namespace

const char* type_name(ValueType type) { return info(type).name; }

std::vector<Array> Array::arrays() const {
  Reader reader("", bytes);
  std::vector<Array> out;
  for (uint64_t i = 0; i < count; ++i) out.push_back(reader.array(1));
  return out;
}

Gguf::Gguf(std::string path) : file_(std::make_shared<MappedFile>(std::move(path))) {
  Reader reader(file_->path(), file_->bytes());
  version_ = read_version(reader);
  // Nothing is reserved: a large file may claim more entries than it has.
  const uint64_t n_tensors = reader.count("number of tensors", kMinTensorBytes);
  const uint64_t n_entries = reader.count("number of metadata entries", kMinEntryBytes);
  for (uint64_t i = 0; i < n_entries; ++i) entries_.push_back(read_entry(reader));
  entries_by_name_ = index_by_name<Entry>(reader, "metadata key", entries_);
  alignment_ = checked_alignment(reader, find("general.alignment"));
  for (uint64_t i = 0; i < n_tensors; ++i) tensors_.push_back(read_tensor(reader));
  tensors_by_name_ = index_by_name<TensorInfo>(reader, "tensor", tensors_);
  place_tensors(reader, *file_, alignment_, tensors_);
  check_overlaps(reader, tensors_);
}

const Value* Gguf::find(std::string_view key) const {
  const Entry* entry = lookup(entries_by_name_, key);
  return entry ? &entry->value : nullptr;
}

const TensorInfo* Gguf::tensor(std::string_view name) const { return lookup(tensors_by_name_, name); }

const Array& Gguf::array(std::string_view key) const {
  Reader reader(path(), {});
  reader.set_subject("metadata key", key);
  const Value* value = find(key);
  if (!value) reader.fail("is missing");
  const Array* array = value->get_if<Array>();
  if (!array) reader.fail("the value is a ", type_name(value->type), ", wanted an array");
  return *array;
}

const Array& Gguf::array(std::string_view key, ValueType element_type) const {
  const Array& found = array(key);
  if (found.element_type != element_type) {
    Reader reader(path(), {});
    reader.set_subject("metadata key", key);
    reader.fail("the elements are of type ", type_name(found.element_type), ", wanted ",
                type_name(element_type));
  }
  return found;
}

const TensorInfo& Gguf::require_tensor(std::string_view name) const {
  const TensorInfo* found = tensor(name);
  if (!found) {
    Reader reader(path(), {});
    reader.set_subject("tensor", name);
    reader.fail("is missing");
  }
  return *found;
}

}  // namespace lanner
