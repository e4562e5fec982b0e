// lanner._core.GgufFile: metadata as Python objects when asked for, tensor data as views on the mapped file.
#include "formats/gguf.h"

#include <memory>

#include "bind/bind.h"
#include "bind/gil.h"
#include "core/check.h"

namespace py = pybind11;

namespace lanner {
namespace {

// What Python sees of a tensor; it outlives the file.
struct TensorEntry {
  std::string name;
  py::tuple shape;
  const char* format;
  size_t n_bytes;
  uint64_t offset;
};

py::str python_str(const Gguf& file, std::string_view key, std::string_view text) {
  PyObject* decoded = PyUnicode_DecodeUTF8(text.data(), static_cast<py::ssize_t>(text.size()), nullptr);
  if (!decoded) {
    PyErr_Clear();
    throw ModelFileError(cat(printable(file.path(), file.path().size()), ": metadata key '", printable(key),
                             "': a string is not UTF-8: '", printable(text), "'"));
  }
  return py::reinterpret_steal<py::str>(decoded);
}

template <class T>
py::object python_array(const Array& array) {
  py::array_t<T> out(static_cast<py::ssize_t>(array.count));
  array.copy_to(std::span<T>(out.mutable_data(), array.count));
  return out;
}

py::object python_elements(const Gguf& file, std::string_view key, const Array& array) {
  switch (array.element_type) {
    case ValueType::U8:
      return python_array<uint8_t>(array);
    case ValueType::I8:
      return python_array<int8_t>(array);
    case ValueType::U16:
      return python_array<uint16_t>(array);
    case ValueType::I16:
      return python_array<int16_t>(array);
    case ValueType::U32:
      return python_array<uint32_t>(array);
    case ValueType::I32:
      return python_array<int32_t>(array);
    case ValueType::U64:
      return python_array<uint64_t>(array);
    case ValueType::I64:
      return python_array<int64_t>(array);
    case ValueType::F32:
      return python_array<float>(array);
    case ValueType::F64:
      return python_array<double>(array);
    case ValueType::Bool:
      return python_array<bool>(array);
    case ValueType::String:
    case ValueType::Array:
      break;
  }
  py::list out;
  if (array.element_type == ValueType::String)
    for (const std::string_view text : array.strings()) out.append(python_str(file, key, text));
  else
    for (const Array& inner : array.arrays()) out.append(python_elements(file, key, inner));
  return out;
}

py::object get(const Gguf& file, std::string_view key, py::object fallback) {
  const Value* value = file.find(key);
  if (!value) return fallback;
  if (const auto* array = value->get_if<Array>()) return python_elements(file, key, *array);
  if (const auto* text = value->get_if<std::string_view>()) return python_str(file, key, *text);
  if (const auto* flag = value->get_if<bool>()) return py::bool_(*flag);
  if (const auto* number = value->get_if<double>()) return py::float_(*number);
  if (const auto* number = value->get_if<int64_t>()) return py::int_(*number);
  return py::int_(*value->get_if<uint64_t>());
}

py::list keys(const Gguf& file) {
  py::list out;
  for (const Entry& entry : file.entries()) out.append(py::str(entry.name.data(), entry.name.size()));
  return out;
}

py::dict tensors(const Gguf& file) {
  py::dict out;
  for (const TensorInfo& tensor : file.tensors()) {
    py::tuple shape(tensor.n_dims);
    for (uint32_t d = 0; d < tensor.n_dims; ++d) shape[tensor.n_dims - 1 - d] = tensor.dims[d];
    out[py::str(tensor.name.data(), tensor.name.size())] =
        TensorEntry{std::string(tensor.name), shape, info(tensor.format).name, tensor.n_bytes, tensor.offset};
  }
  return out;
}

py::array tensor_data(const std::shared_ptr<Gguf>& file, std::string_view name) {
  const TensorInfo& tensor = file->require_tensor(name);
  py::array_t<uint8_t> view(static_cast<py::ssize_t>(tensor.n_bytes),
                            reinterpret_cast<const uint8_t*>(tensor.data), py::cast(file));
  view.attr("setflags")(py::arg("write") = false);
  return view;
}

std::shared_ptr<Gguf> open(const py::object& path) {
  std::string encoded = file_system_path(path);
  ReleasedGil released;
  return std::make_shared<Gguf>(std::move(encoded));
}

}  // namespace

void bind_gguf(py::module_& m) {
  py::class_<TensorEntry>(m, "TensorInfo", "Name, shape and place of a tensor in a model file.")
      .def_readonly("name", &TensorEntry::name)
      .def_readonly("shape", &TensorEntry::shape, "Slowest dimension first, as in NumPy: (rows, columns).")
      .def_readonly("format", &TensorEntry::format, "Element format, such as 'f32' or 'q4_1'.")
      .def_readonly("n_bytes", &TensorEntry::n_bytes)
      .def_readonly("offset", &TensorEntry::offset, "Of the data, in bytes from the start of the file.")
      .def("__repr__", [](const TensorEntry& t) {
        return py::str("TensorInfo(name={!r}, shape={}, format={!r}, n_bytes={}, offset={})")
            .format(t.name, t.shape, t.format, t.n_bytes, t.offset);
      });

  py::class_<Gguf, std::shared_ptr<Gguf>>(m, "GgufFile", R"(A GGUF file of version 2 or 3, mapped for reading.

Opening checks every count, length and offset; metadata becomes Python objects when asked for.
Raises OSError (FileNotFoundError, IsADirectoryError, ...), ModelFileError where the bytes contradict
the format, UnsupportedModelError for another version, byte order or tensor type.)")
      .def(py::init(&open), py::arg("path"))
      .def_property_readonly("path", [](const Gguf& file) { return python_path(file.path()); })
      .def_property_readonly("version", &Gguf::version)
      .def_property_readonly("alignment", &Gguf::alignment, "Of tensor data, in bytes.")
      .def_property_readonly("n_bytes", &Gguf::n_bytes, "Size of the file.")
      .def_property_readonly("file", &Gguf::shared_file, "The MappedFile that the tensors lie in.")
      .def("keys", &keys, "Metadata keys in the order of the file.")
      .def(
          "has", [](const Gguf& file, std::string_view key) { return file.find(key) != nullptr; },
          py::arg("key"))
      .def("get", &get, py::arg("key"), py::arg("default") = py::none(),
           R"(Value of a metadata key: int, float, bool, str; a NumPy array of the stored dtype for numbers,
a list for strings and nested arrays; `default` where the file has no such key.
Raises ModelFileError naming the key where a string is not UTF-8.)")
      .def(
          "array_len", [](const Gguf& file, std::string_view key) { return file.array(key).count; },
          py::arg("key"),
          "Elements of an array, without reading them. Raises ModelFileError if there is none.")
      .def("tensors", &tensors, "TensorInfo by name, in the order of the file.")
      .def(
          "tensor_bytes",
          [](const Gguf& file, const std::string& name) {
            const TensorInfo& t = file.require_tensor(name);
            return py::bytes(reinterpret_cast<const char*>(t.data), t.n_bytes);
          },
          py::arg("name"),
          "A copy of the bytes of a tensor; ModelFileError where the file has no such tensor.")
      .def("tensor_data", &tensor_data, py::arg("name"),
           R"(Bytes of a tensor: uint8 (n_bytes,), read-only, a view that keeps the file mapped.
Raises ModelFileError where the file has no such tensor.)")
      .def("__repr__", [](const Gguf& file) {
        return py::str("GgufFile({!r}): version {}, {} metadata keys, {} tensors")
            .format(python_path(file.path()), file.version(), file.entries().size(), file.tensors().size());
      });
}

}  // namespace lanner
