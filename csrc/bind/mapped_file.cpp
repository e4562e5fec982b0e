// lanner._core.MappedFile: ranges of a file, checked against its size before anything is read.
#include "core/mapped_file.h"

#include <algorithm>
#include <cerrno>
#include <memory>

#include "bind/bind.h"
#include "bind/gil.h"
#include "core/check.h"
#include "cpu/backend.h"

namespace py = pybind11;

namespace lanner {

std::string file_system_path(const py::object& path) {
  PyObject* encoded = nullptr;
  if (!PyUnicode_FSConverter(path.ptr(), &encoded)) throw py::error_already_set();
  return py::reinterpret_steal<py::bytes>(encoded);
}

py::object python_path(const std::string& path) {
  return py::reinterpret_steal<py::object>(
      PyUnicode_DecodeFSDefaultAndSize(path.data(), static_cast<py::ssize_t>(path.size())));
}

Format format_named(const std::string& name) {
  for (const FormatInfo& f : kFormats)
    if (name == f.name) return f.format;
  throw std::invalid_argument(cat("format '", name, "' is none that this library knows"));
}

namespace {

// FileNotFoundError, IsADirectoryError, PermissionError, ...: Python chooses by the number.
void translate_file_error(std::exception_ptr error) {
  try {
    if (error) std::rethrow_exception(error);
  } catch (const FileError& e) {
    const py::object path = python_path(e.path);  // may set errno itself
    errno = e.error_number;
    PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path.ptr());
  }
}

std::shared_ptr<MappedFile> open(const py::object& path) {
  std::string encoded = file_system_path(path);
  ReleasedGil released;
  return std::make_shared<MappedFile>(std::move(encoded));
}

py::object range(const py::object& self, uint64_t offset, uint64_t n_bytes) {
  checked_range(self.cast<const MappedFile&>(), offset, n_bytes);
  const auto whole = py::reinterpret_steal<py::object>(PyMemoryView_FromObject(self.ptr()));
  if (!whole) throw py::error_already_set();
  return whole[py::slice(static_cast<py::ssize_t>(offset), static_cast<py::ssize_t>(offset + n_bytes), 1)];
}

// 4 bytes for every element of the file become 4 of the result: no product can overflow once the range holds.
py::bytes floats(const MappedFile& file, uint64_t offset, uint64_t n, const std::string& format) {
  const FormatInfo& f = info(format_named(format));
  check(n % f.block == 0, "floats: n is ", n, ", wanted a multiple of ", f.block, " for ", f.name);
  if (n / f.block > file.n_bytes())
    throw ModelFileError(
        cat("floats: ", n, " values of ", f.name, " are more than the file's ", file.n_bytes(), " bytes"));
  const std::byte* from = checked_range(file, offset, n / f.block * f.bytes);
  auto out = py::reinterpret_steal<py::bytes>(
      PyBytes_FromStringAndSize(nullptr, static_cast<py::ssize_t>(n * sizeof(float))));
  if (!out) throw py::error_already_set();
  auto* to = reinterpret_cast<float*>(PyBytes_AS_STRING(out.ptr()));
  bool finite = true;
  {
    ReleasedGil released;
    cpu_table().dequantize(f.format, from, static_cast<int64_t>(n), to);
    finite = std::all_of(to, to + n, [](float x) { return x - x == 0.0f; });
  }
  if (!finite) throw ModelFileError("floats: an infinite or NaN value");
  return out;
}

}  // namespace

const std::byte* checked_range(const MappedFile& file, uint64_t offset, uint64_t n_bytes) {
  if (offset > file.n_bytes() || n_bytes > file.n_bytes() - offset)
    throw ModelFileError(cat(n_bytes, " bytes at offset ", offset, " run past the end of the ",
                             file.n_bytes(), " bytes of ", printable(file.path(), file.path().size())));
  return file.data() + offset;
}

void bind_mapped_file(py::module_& m) {
  py::register_local_exception_translator(translate_file_error);

  py::class_<MappedFile, std::shared_ptr<MappedFile>>(m, "MappedFile", py::buffer_protocol(),
                                                      R"(A file mapped for reading, a buffer of its bytes.

Raises OSError (FileNotFoundError, IsADirectoryError, ...), ModelFileError for an empty or no regular file.)")
      .def(py::init(&open), py::arg("path"))
      .def_buffer([](MappedFile& file) {
        return py::buffer_info(reinterpret_cast<uint8_t*>(const_cast<std::byte*>(file.data())),
                               static_cast<py::ssize_t>(file.n_bytes()), true);
      })
      .def_property_readonly("path", [](const MappedFile& file) { return python_path(file.path()); })
      .def_property_readonly("n_bytes", &MappedFile::n_bytes)
      .def_property_readonly("state", &MappedFile::state,
                             "Tells the file, as it was opened, from others and from what it becomes when "
                             "it is written to.")
      .def("range", &range, py::arg("offset"), py::arg("n_bytes"),
           "A read-only memoryview of bytes of the file. Raises ModelFileError past its end.")
      .def(
          "release",
          [](const MappedFile& file, uint64_t offset, uint64_t n_bytes) {
            file.release(checked_range(file, offset, n_bytes), n_bytes);
          },
          py::arg("offset"), py::arg("n_bytes"),
          "Takes the whole pages of a range out of this process; reading them again brings them back.")
      .def("floats", &floats, py::arg("offset"), py::arg("n"), py::arg("format"),
           "n values of a format as bytes of float32. Raises ModelFileError past the end, and for a value "
           "that is not finite.");
}

}  // namespace lanner
