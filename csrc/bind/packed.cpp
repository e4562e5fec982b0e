// Packed weights: made of arrays, and of ranges of mapped files whose pages go back as they are packed.
#include "ops/packed.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "bind/bind.h"
#include "bind/gil.h"
#include "core/background.h"
#include "core/blob_file.h"
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
  std::shared_ptr<const MappedFile> file = nullptr;
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

// A weight whose panels are being packed in slices, by any thread.
class Packing {
 public:
  // `kept` may have the panels already, and then has them for no other.
  Packing(std::vector<Part> parts, std::shared_ptr<Arena> arena, std::shared_ptr<BlobFile> kept = nullptr)
      : parts_(std::move(parts)) {
    std::vector<PackSource> sources;
    for (const Part& part : parts_) sources.push_back(part.stored), sources.back().format = part.format;
    const std::span<std::byte> found = kept ? kept->take(key()) : std::span<std::byte>();
    weight_ = std::make_shared<PackedWeight>(lay_out(sources, std::move(arena), found, std::move(kept)));
    for (size_t i = 0; i < parts_.size(); ++i)
      for (int begin = 0; begin < weight_->segments[i].n_panels; begin += panels_per_slice(i))
        slices_.push_back({i, begin});
  }

  int n_slices() const { return static_cast<int>(slices_.size()); }
  const std::shared_ptr<PackedWeight>& weight() const { return weight_; }
  bool is_kept() const { return weight_->owner != nullptr; }

  // All that the panels depend on but the bytes of the files.
  std::string key() const {
    std::string out;
    for (const Part& part : parts_) {
      const PackSource& s = part.stored;
      const std::string& path = part.file->path();
      out += cat(path.substr(path.rfind('/') + 1), " ", s.data - part.file->data(), " ", info(s.format).name,
                 " ", info(part.format).name, " ", s.n_rows, " ", s.k, " ", s.interleaved_head_dim, "\n");
    }
    return out;
  }

  void pack_slice(int slice) {
    const auto [i, begin] = slices_[slice];
    const Part& part = parts_[i];
    const Segment& segment = weight_->segments[i];
    const int end = std::min(begin + panels_per_slice(i), segment.n_panels);
    const bool packed = part.format == part.stored.format ? cpu_table().pack(part.stored, segment, begin, end)
                                                          : pack_quantized(part, segment, begin, end);
    if (!packed) bad_part_.store(static_cast<int>(i), std::memory_order_relaxed);
    const size_t bytes = panel_bytes(i);
    if (part.file)
      part.file->release(part.stored.data + bytes * begin, bytes * static_cast<size_t>(end - begin));
  }

  // Once all slices are packed: what is wrong with the weight, empty if nothing is.
  std::string error() const {
    const int bad = bad_part_.load();
    if (bad < 0) return "";
    const Part& part = parts_[bad];
    const PackSource& s = part.stored;
    const bool is_quantized = part.format != s.format;
    return cat("pack: a ", info(s.format).name, " weight of shape (", s.n_rows, ", ", s.k,
               ") holds an infinite or NaN ", input_of(s.format) == InputKind::kFloat ? "value" : "scale",
               is_quantized ? ", or values beyond the scales of " : "",
               is_quantized ? info(part.format).name : "");
  }

 private:
  // Of 16 rows in the source.
  size_t panel_bytes(size_t i) const {
    const PackSource& s = parts_[i].stored;
    return row_bytes(s.format, static_cast<size_t>(s.k)) * kPanelRows;
  }
  int panels_per_slice(size_t i) const {
    return static_cast<int>(std::max<size_t>(1, kSliceBytes / panel_bytes(i)));
  }

  struct Slice {
    size_t part;
    int begin;  // panel of its segment
  };

  const std::vector<Part> parts_;
  std::shared_ptr<PackedWeight> weight_;
  std::vector<Slice> slices_;
  std::atomic<int> bad_part_{-1};
};

std::shared_ptr<PackedWeight> pack_now(const std::shared_ptr<Packing>& packing, int n_threads) {
  ReleasedGil unlocked;
  Pool::get().for_each(n_threads, packing->n_slices(),
                       [&](int64_t slice) { packing->pack_slice(static_cast<int>(slice)); });
  if (const std::string error = packing->error(); !error.empty()) throw ModelFileError(error);
  return packing->weight();
}

// Packs weights of mapped files while Python goes on, or checks those that a file has kept.
class Packer {
 public:
  // `subject` says of what files, and in which layout, the panels in `path` must be; no path: none are kept.
  Packer(int n_threads, const py::object& path, std::string subject)
      : path_(path.is_none() ? "" : file_system_path(path)),
        subject_(std::move(subject)),
        threads_(n_threads) {
    if (!path_.empty()) kept_ = BlobFile::open(path_, subject_);
    for (size_t slice = 0; kept_ && slice < kept_->n_slices(); ++slice)
      threads_.add([kept = kept_, slice] { kept->check_slice(slice); });
  }

  std::shared_ptr<PackedWeight> pack(std::shared_ptr<Packing> packing) {
    if (!packing->is_kept()) add_slices(packing);
    return packings_.emplace_back(std::move(packing))->weight();
  }

  // (index of the weight, counted as they came; what is wrong) of those that hold what is not finite.
  std::vector<std::pair<size_t, std::string>> finish() {
    const auto packings = std::exchange(packings_, {});
    if (packings.empty()) return {};
    ReleasedGil unlocked;
    threads_.finish();
    is_complete_ = kept_ && (packed_.empty() || is_complete_);
    for (const auto& packing : packings) is_complete_ &= packing->is_kept();
    if (kept_ && kept_->is_damaged()) {
      kept_->replace();
      kept_.reset();  // what comes later is packed elsewhere
      is_complete_ = false;
      for (const auto& packing : packings)
        if (packing->is_kept()) add_slices(packing);
      threads_.finish();
    }
    std::vector<std::pair<size_t, std::string>> errors;
    for (size_t i = 0; i < packings.size(); ++i) {
      if (std::string error = packings[i]->error(); !error.empty())
        errors.emplace_back(i, std::move(error));
      else
        packed_.emplace_back(packings[i]->key(), packings[i]->weight());
    }
    return errors;
  }

  // Whether a file had all that was asked for.
  bool is_complete() const { return is_complete_; }
  const std::shared_ptr<BlobFile>& kept() const { return kept_; }

  void keep() const {
    if (packed_.empty()) return;
    ReleasedGil unlocked;
    std::vector<Blob> blobs;
    for (const auto& [key, w] : packed_) blobs.push_back({key, {w->segments[0].data, w->n_bytes}});
    write_blobs(path_, subject_, blobs);
  }

 private:
  void add_slices(const std::shared_ptr<Packing>& packing) {
    for (int slice = 0; slice < packing->n_slices(); ++slice)
      threads_.add([packing, slice] { packing->pack_slice(slice); });
  }

  const std::string path_, subject_;
  std::shared_ptr<BlobFile> kept_;
  std::vector<std::shared_ptr<Packing>> packings_;
  std::vector<std::pair<std::string, std::shared_ptr<PackedWeight>>> packed_;
  bool is_complete_ = false;
  Background threads_;  // ends first
};

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
  return pack_now(std::make_shared<Packing>(std::move(parts), nullptr), n_threads);
}

// (MappedFile or array of uint8, offset, format, n_rows, k, interleaved_head_dim, format when packed)
using RangeTuple = std::tuple<py::object, uint64_t, std::string, int64_t, int64_t, int32_t, std::string>;

std::shared_ptr<PackedWeight> pack_files(const std::vector<RangeTuple>& tuples, int n_threads,
                                         std::shared_ptr<Arena> arena, Packer* packer) {
  std::vector<Part> parts;
  std::vector<Bytes> arrays;  // that the parts point into
  for (const auto& [data, offset, name, n_rows, k, head_dim, packed_name] : tuples) {
    const Format format = format_named(name), packed = format_named(packed_name);
    const size_t n_bytes = checked_bytes(format, n_rows, k);
    check(packed == format || (input_of(format) == InputKind::kFloat && can_quantize(packed)), "pack: ", name,
          " cannot become ", packed_name);
    Part part{{format, nullptr, static_cast<int32_t>(n_rows), static_cast<int32_t>(k), head_dim}, packed};
    if (py::isinstance<MappedFile>(data)) {
      part.file = data.cast<std::shared_ptr<MappedFile>>();
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
  check(!packer || arrays.empty(), "pack: a packer takes files alone: an array may change meanwhile");
  auto packing =
      std::make_shared<Packing>(std::move(parts), std::move(arena), packer ? packer->kept() : nullptr);
  return packer ? packer->pack(std::move(packing)) : pack_now(packing, n_threads);
}

// The state of the file that this code was loaded from, as it was then: another may take its place while the
// process runs. Empty where it is not found.
std::string library_state() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&bind_packed), &info) == 0 || !info.dli_fname) return "";
  try {
    return MappedFile(info.dli_fname).state();
  } catch (const std::runtime_error&) {
    return "";
  }
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

  py::class_<Packer>(m, "Packer", R"(Threads that pack weights of mapped files while Python goes on.

n_threads counts the one that calls finish(). `path` is a file that has kept panels of `subject`: what it has
is checked in the place of being packed, and packed all the same where it is damaged; None: no file.)")
      .def(py::init<int, const py::object&, std::string>(), py::arg("n_threads"),
           py::arg("path") = py::none(), py::arg("subject") = "")
      .def("finish", &Packer::finish,
           R"(Waits until all weights are packed, and takes part: until then none may be used.

Returns (index, what is wrong) of those that hold a value or scale that is not finite, counted from the first
that came since the last call.)")
      .def_property_readonly("is_complete", &Packer::is_complete,
                             "Whether the file had all of what finish() waited for, undamaged.")
      .def("keep", &Packer::keep,
           "Writes all that was packed to the file, at once or not at all. Raises OSError.");
  m.attr("LIBRARY_STATE") = library_state();

  m.def(
      "checksum",
      [](const py::buffer& data) {
        const py::buffer_info bytes = data.request();
        return checksum(
            {static_cast<const std::byte*>(bytes.ptr), static_cast<size_t>(bytes.size * bytes.itemsize)});
      },
      py::arg("data"), "64 bits that tell contiguous bytes from others.");

  py::class_<PackedWeight, std::shared_ptr<PackedWeight>>(
      m, "Packed",
      "A weight (N, K) in panels of 16 rows, as the kernels of matmul read it. lanner.ops.pack makes one of "
      "an\n"
      "array. It never changes, so any number of threads may use it at once.")
      .def(py::init(&pack_arrays), py::arg("sources"), py::kw_only(), py::arg("n_threads") = 1)
      .def_static("from_files", &pack_files, py::arg("sources"), py::kw_only(), py::arg("n_threads") = 1,
                  py::arg("arena") = nullptr, py::arg("packer") = nullptr)
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
