// quantize and dequantize on whole arrays.
#include <algorithm>
#include <atomic>

#include "bind/array.h"
#include "bind/gil.h"
#include "core/check.h"
#include "core/pool.h"
#include "cpu/backend.h"
#include "ops/dequantize.h"

namespace py = pybind11;

namespace lanner {

namespace {

// Elements that a thread takes at a time: 256 KB of float32, a few microseconds of work, and a multiple of
// every block.
constexpr int64_t kSlice = 1 << 16;

const FormatInfo& format_named(const std::string& name) {
  for (const FormatInfo& f : kFormats)
    if (name == f.name) return f;
  throw std::invalid_argument(cat("format '", name, "' is none that this library knows"));
}

// body(first element, number of elements) over slices of n, on as many threads as pay.
template <class Body>
void for_slices(int64_t n, Body body) {
  const int64_t n_slices = (n + kSlice - 1) / kSlice;
  auto slice = [&](int64_t i) { body(i * kSlice, std::min(kSlice, n - i * kSlice)); };
  const int n_threads = array_threads(n * static_cast<int64_t>(sizeof(float)));
  ReleasedGil unlocked;
  if (n_threads == 1 || n_slices == 1)
    for (int64_t i = 0; i < n_slices; ++i) slice(i);
  else
    Pool::get().for_each(n_threads, n_slices, slice);
}

void check_sizes(const char* op, const FormatInfo& f, int64_t n_values, int64_t n_bytes) {
  check(n_values % f.block == 0 && n_values / f.block * f.bytes == n_bytes, op, ": ", n_values, " values of ",
        f.name, " do not fill ", n_bytes, " bytes");
}

using Bytes = py::array_t<uint8_t, py::array::c_style>;
using Floats = py::array_t<float, py::array::c_style>;

void dequantize(const Bytes& data, const std::string& format, Floats out) {
  const FormatInfo& f = format_named(format);
  check_sizes("dequantize", f, out.size(), data.size());
  const auto* from = reinterpret_cast<const std::byte*>(data.data());
  float* to = out.mutable_data();
  for_slices(out.size(), [&](int64_t first, int64_t n) {
    cpu_table().dequantize(f.format, from + row_bytes(f.format, static_cast<size_t>(first)), n, to + first);
  });
}

bool quantize(const Floats& x, const std::string& format, Bytes out) {
  const FormatInfo& f = format_named(format);
  check(can_quantize(f.format), "quantize: ", f.name, " is not a format that this library makes");
  check_sizes("quantize", f, x.size(), out.size());
  const float* from = x.data();
  auto* to = reinterpret_cast<std::byte*>(out.mutable_data());
  std::atomic<bool> ok{true};
  for_slices(x.size(), [&](int64_t first, int64_t n) {
    std::byte* at = to + row_bytes(f.format, static_cast<size_t>(first));
    if (!cpu_table().quantize(f.format, from + first, n, at)) ok.store(false, std::memory_order_relaxed);
  });
  return ok.load();
}

}  // namespace

void bind_array_quantization(py::module_& m) {
  py::dict formats;
  for (const FormatInfo& f : kFormats) formats[f.name] = py::make_tuple(f.block, f.bytes);
  m.attr("FORMATS") = formats;  // name -> (values, bytes) of a block
  m.def("dequantize", &dequantize, py::arg("data").noconvert(), py::arg("format"),
        py::arg("out").noconvert());
  m.def("quantize", &quantize, py::arg("x").noconvert(), py::arg("format"), py::arg("out").noconvert());
}

}  // namespace lanner
