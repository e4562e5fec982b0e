// Packed weights: made of arrays, and of ranges of mapped files whose pages go back as they are packed.
#include "ops/packed.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "bind/bind.h"
#include "bind/gil.h"
#include "core/mapped_file.h"
#include "core/pool.h"
#include "cpu/backend.h"
#include "ops/dequantize.h"

namespace py = pybind11;

namespace lanner {

namespace {

// Source bytes that one thread packs before their pages are given back: small enough that a file of any size
// passes through a few megabytes of memory.
constexpr size_t kSliceBytes = size_t{4} << 20;

using Bytes = py::array_t<uint8_t, py::array::c_style>;

// A tensor as it is stored, the format that it shall have when packed, and the file whose pages are given
// back.
struct Part {
  PackSource stored;
  Format format;
  const MappedFile* file = nullptr;
};

// Rows [16 * begin, 16 * end) in the order of the packed weight, quantized, then packed.
bool pack_quantized(const Part& part, const Segment& segment, int begin, int end) {
  const PackSource& s = part.stored;
  const int32_t first = begin * kPanelRows, n = std::min(end * kPanelRows, s.n_rows) - first;
  const size_t stored_bytes = row_bytes(s.format, static_cast<size_t>(s.k)),
               coded_bytes = row_bytes(part.format, static_cast<size_t>(s.k));
  std::vector<float> row(static_cast<size_t>(s.k));
  std::vector<std::byte> coded(coded_bytes * static_cast<size_t>(n));
  for (int32_t r = 0; r < n; ++r) {
    const std::byte* from = s.data + stored_bytes * static_cast<size_t>(source_row(s, first + r));
    cpu_table().dequantize(s.format, from, s.k, row.data());
    if (!cpu_table().quantize(part.format, row.data(), s.k, &coded[coded_bytes * static_cast<size_t>(r)]))
      return false;
  }
  Segment slice = segment;
  slice.n_rows = n, slice.n_panels = end - begin;
  slice.data = segment.data + segment.panel_bytes * static_cast<size_t>(begin);
  return cpu_table().pack({part.format, coded.data(), n, s.k, 0}, slice, 0, slice.n_panels);
}

// Packs one segment in slices; false if a value is not finite.
bool pack_segment(const Part& part, const Segment& segment, int n_threads) {
  const PackSource& s = part.stored;
  const size_t panel_source = row_bytes(s.format, static_cast<size_t>(s.k)) * kPanelRows;
  const int per_slice = static_cast<int>(std::max<size_t>(1, kSliceBytes / panel_source));
  const int n_slices = (segment.n_panels + per_slice - 1) / per_slice;
  std::atomic<bool> ok{true};
  Pool::get().for_each(n_threads, n_slices, [&](int64_t slice) {
    const int begin = static_cast<int>(slice) * per_slice,
              end = std::min(begin + per_slice, segment.n_panels);
    const bool packed = part.format == s.format ? cpu_table().pack(s, segment, begin, end)
                                                : pack_quantized(part, segment, begin, end);
    if (!packed) ok.store(false, std::memory_order_relaxed);
    if (part.file)
      part.file->release(s.data + panel_source * begin, panel_source * static_cast<size_t>(end - begin));
  });
  return ok.load();
}

std::shared_ptr<PackedWeight> pack(const std::vector<Part>& parts, int n_threads,
                                   std::shared_ptr<Arena> arena) {
  ReleasedGil unlocked;
  std::vector<PackSource> sources;
  for (const Part& part : parts) sources.push_back(part.stored), sources.back().format = part.format;
  auto weight = std::make_shared<PackedWeight>(lay_out(sources, std::move(arena)));
  for (size_t i = 0; i < parts.size(); ++i) {
    const PackSource& s = parts[i].stored;
    if (pack_segment(parts[i], weight->segments[i], n_threads)) continue;
    const bool is_float = input_of(s.format) == InputKind::kFloat;
    throw ModelFileError(cat("pack: a ", info(s.format).name, " weight of shape (", s.n_rows, ", ", s.k,
                             ") holds an infinite or NaN ", is_float ? "value" : "scale",
                             parts[i].format == s.format ? "" : ", or values beyond the scales of ",
                             parts[i].format == s.format ? "" : info(parts[i].format).name));
  }
  return weight;
}

// The bytes that a weight of this shape takes; its shape is checked first.
size_t checked_bytes(Format format, int64_t n_rows, int64_t k) {
  const FormatInfo& f = info(format);
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  check(n_rows > 0 && k > 0 && n_rows <= kMost && k <= kMost && k % f.block == 0, "pack: shape is (", n_rows,
        ", ", k, "), wanted positive numbers of at most ", kMost, ", the last a multiple of ", f.block);
  return row_bytes(format, static_cast<size_t>(k)) * static_cast<size_t>(n_rows);  // below 2^64: 4 bytes each
}

// (data, format, n_rows, k, interleaved_head_dim)
using SourceTuple = std::tuple<Bytes, std::string, int32_t, int32_t, int32_t>;

std::shared_ptr<PackedWeight> pack_arrays(const std::vector<SourceTuple>& tuples, int n_threads) {
  std::vector<Part> parts;
  for (const auto& [data, name, n_rows, k, head_dim] : tuples) {
    const Format format = format_named(name);
    const size_t wanted = checked_bytes(format, n_rows, k);
    check(static_cast<size_t>(data.size()) == wanted, "pack: ", name, " of shape (", n_rows, ", ", k,
          ") has ", data.size(), " bytes, wanted ", wanted);
    parts.push_back({{format, reinterpret_cast<const std::byte*>(data.data()), n_rows, k, head_dim}, format});
  }
  return pack(parts, n_threads, nullptr);
}

// (MappedFile or array of uint8, offset, format, n_rows, k, interleaved_head_dim, format when packed)
using RangeTuple = std::tuple<py::object, uint64_t, std::string, int64_t, int64_t, int32_t, std::string>;

std::shared_ptr<PackedWeight> pack_files(const std::vector<RangeTuple>& tuples, int n_threads,
                                         std::shared_ptr<Arena> arena) {
  std::vector<Part> parts;
  std::vector<Bytes> arrays;  // that the parts point into
  for (const auto& [data, offset, name, n_rows, k, head_dim, packed_name] : tuples) {
    const Format format = format_named(name), packed = format_named(packed_name);
    const size_t n_bytes = checked_bytes(format, n_rows, k);
    check(packed == format || (input_of(format) == InputKind::kFloat && can_quantize(packed)), "pack: ", name,
          " cannot become ", packed_name);
    Part part{{format, nullptr, static_cast<int32_t>(n_rows), static_cast<int32_t>(k), head_dim}, packed};
    if (py::isinstance<MappedFile>(data)) {
      part.file = &data.cast<const MappedFile&>();
      part.stored.data = checked_range(*part.file, offset, n_bytes);
    } else {
      const Bytes& array = arrays.emplace_back(data.cast<Bytes>());
      const auto size = static_cast<uint64_t>(array.size());
      check(offset <= size && n_bytes <= size - offset, "pack: ", name, " of shape (", n_rows, ", ", k,
            ") at ", offset, " passes the end of ", size, " bytes");
      part.stored.data = reinterpret_cast<const std::byte*>(array.data()) + offset;
    }
    parts.push_back(part);
  }
  return pack(parts, n_threads, std::move(arena));
}

std::vector<std::string> formats_of(const PackedWeight& w) {
  std::vector<std::string> names;
  for (const Segment& s : w.segments) names.emplace_back(info(s.format).name);
  return names;
}

// Each name once, in the order of the segments: "q4_1", or "q4_1+q8_0" of a fused weight.
std::string format_of(const PackedWeight& w) {
  std::vector<std::string> names;
  for (const std::string& name : formats_of(w))
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  std::string joined;
  for (const std::string& name : names) joined += (joined.empty() ? "" : "+") + name;
  return joined;
}

const char* input_name(Format format) {
  constexpr const char* kNames[] = {"float", "int8", "int16"};
  return kNames[static_cast<int>(input_of(format))];
}

std::vector<std::string> inputs_of(const PackedWeight& w) {
  std::vector<std::string> names;
  for (const Segment& s : w.segments) names.emplace_back(input_name(s.format));
  return names;
}

std::vector<int32_t> segment_rows_of(const PackedWeight& w) {
  std::vector<int32_t> rows;
  for (const Segment& s : w.segments) rows.push_back(s.n_rows);
  return rows;
}

py::array_t<float> unpack(const PackedWeight& w) {
  py::array_t<float> out({w.n, w.k});
  float* to = out.mutable_data();
  ReleasedGil unlocked;
  for (int32_t row = 0; row < w.n; ++row, to += w.k) cpu_table().unpack_row(w, row, to);
  return out;
}

}  // namespace

void bind_packed(py::module_& m) {
  py::class_<Arena, std::shared_ptr<Arena>>(m, "Arena").def(py::init<size_t>(), py::arg("n_bytes"));

  py::class_<PackedWeight, std::shared_ptr<PackedWeight>>(
      m, "Packed",
      "A weight (N, K) in panels of 16 rows, as the kernels of matmul read it. lanner.ops.pack makes one of "
      "an\n"
      "array. It never changes, so any number of threads may use it at once.")
      .def(py::init(&pack_arrays), py::arg("sources"), py::kw_only(), py::arg("n_threads") = 1)
      .def_static("from_files", &pack_files, py::arg("sources"), py::kw_only(), py::arg("n_threads") = 1,
                  py::arg("arena") = nullptr)
      .def_property_readonly(
          "shape", [](const PackedWeight& w) { return py::make_tuple(w.n, w.k); },
          "(N, K): outputs and inputs of a matmul.")
      .def_property_readonly(
          "nbytes", [](const PackedWeight& w) { return w.n_bytes; },
          "Bytes of the panels, the padding of the last one included.")
      .def_property_readonly("format", &format_of,
                             "Name of the format, such as 'q4_0'; names joined by + where several are fused.")
      .def_property_readonly("formats", &formats_of, "The format of each fused weight.")
      .def_property_readonly("inputs", &inputs_of)
      .def_property_readonly("segment_rows", &segment_rows_of)
      .def("unpack", &unpack, "The float32 weights (N, K), bit for bit what dequantizing their source gives.")
      .def("__repr__", [](const PackedWeight& w) {
        return cat("Packed(shape=(", w.n, ", ", w.k, "), format='", format_of(w), "', nbytes=", w.n_bytes,
                   ")");
      });
  m.def(
      "input_of", [](const std::string& format) { return input_name(format_named(format)); },
      py::arg("format"), "The form of its input that a format reads: 'float', 'int8' or 'int16'.");
}

}  // namespace lanner
