// Packed weights, the KV cache and the arrays of a step.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <utility>

#include "bind/bind.h"
#include "bind/step.h"
#include "core/pool.h"
#include "cpu/backend.h"
#include "formats/gguf.h"
#include "ops/kv_cache.h"
#include "ops/packed.h"
#include "ops/quantize_rows.h"

namespace py = pybind11;

namespace lanner {

namespace {

// Source bytes that one thread packs before their pages are given back: small enough that a file of any size
// passes through a few megabytes of memory.
constexpr size_t kSliceBytes = size_t{4} << 20;

Format format_named(const std::string& name) {
  for (const FormatInfo& f : kFormats)
    if (name == f.name) return f.format;
  throw std::invalid_argument(cat("format '", name, "' is none that this library knows"));
}

// (data, format, n_rows, k, interleaved_head_dim)
using SourceTuple =
    std::tuple<py::array_t<uint8_t, py::array::c_style>, std::string, int32_t, int32_t, int32_t>;

PackSource source_of(const SourceTuple& t) {
  const auto& [data, format, n_rows, k, head_dim] = t;
  PackSource s{format_named(format), reinterpret_cast<const std::byte*>(data.data()), n_rows, k, head_dim};
  const FormatInfo& f = info(s.format);
  check(n_rows > 0 && k > 0 && k % static_cast<int32_t>(f.block) == 0, "pack: shape is (", n_rows, ", ", k,
        "), wanted positive numbers, the last a multiple of ", f.block);
  const size_t wanted = row_bytes(s.format, static_cast<size_t>(k)) * static_cast<size_t>(n_rows);
  check(static_cast<size_t>(data.size()) == wanted, "pack: ", f.name, " of shape (", n_rows, ", ", k,
        ") has ", data.size(), " bytes, wanted ", wanted);
  return s;
}

// Packs one segment in slices; false if a value is not finite.
bool pack_segment(const PackSource& source, const Segment& segment, int n_threads, const MappedFile* file) {
  const size_t panel_source = row_bytes(source.format, static_cast<size_t>(source.k)) * kPanelRows;
  const int per_slice = static_cast<int>(std::max<size_t>(1, kSliceBytes / panel_source));
  const int n_slices = (segment.n_panels + per_slice - 1) / per_slice;
  std::atomic<bool> ok{true};
  Pool::get().for_each(n_threads, n_slices, [&](int64_t slice) {
    const int begin = static_cast<int>(slice) * per_slice,
              end = std::min(begin + per_slice, segment.n_panels);
    if (!cpu_table().pack(source, segment, begin, end)) ok.store(false, std::memory_order_relaxed);
    if (file) file->release(source.data + panel_source * begin, panel_source * (end - begin));
  });
  return ok.load();
}

// `file`: where the sources lie, whose pages are given back once they are packed; or nullptr.
std::shared_ptr<PackedWeight> pack(const std::vector<PackSource>& sources, int n_threads,
                                   std::shared_ptr<Arena> arena, const MappedFile* file) {
  py::gil_scoped_release unlocked;
  auto weight = std::make_shared<PackedWeight>(lay_out(sources, std::move(arena)));
  for (size_t i = 0; i < sources.size(); ++i)
    if (!pack_segment(sources[i], weight->segments[i], n_threads, file))
      throw ModelFileError(cat("pack: a ", info(sources[i].format).name, " weight of shape (",
                               sources[i].n_rows, ", ", sources[i].k, ") holds an infinite or NaN ",
                               input_of(sources[i].format) == InputKind::kFloat ? "value" : "scale"));
  return weight;
}

std::shared_ptr<PackedWeight> pack_arrays(const std::vector<SourceTuple>& tuples, int n_threads) {
  std::vector<PackSource> sources;
  for (const SourceTuple& t : tuples) sources.push_back(source_of(t));
  return pack(sources, n_threads, nullptr, nullptr);
}

// Matrices of a file by (name, interleaved_head_dim).
std::shared_ptr<PackedWeight> pack_tensors(const std::shared_ptr<Gguf>& gguf,
                                           const std::vector<std::pair<std::string, int32_t>>& names,
                                           int n_threads, std::shared_ptr<Arena> arena) {
  std::vector<PackSource> sources;
  for (const auto& [name, head_dim] : names) {
    const TensorInfo& t = gguf->require_tensor(name);
    constexpr uint64_t kMost = std::numeric_limits<int32_t>::max();
    check(t.n_dims == 2 && t.dims[0] <= kMost && t.dims[1] <= kMost, "pack: tensor '", name, "' has ",
          t.n_dims, " dimensions, wanted a matrix of at most ", kMost, " rows and columns");
    sources.push_back(
        {t.format, t.data, static_cast<int32_t>(t.dims[1]), static_cast<int32_t>(t.dims[0]), head_dim});
  }
  return pack(sources, n_threads, std::move(arena), &gguf->file());
}

// Each name once, in the order of the segments: "q4_1", or "q4_1+q8_0" of a fused weight.
std::string format_of(const PackedWeight& w) {
  std::vector<std::string> names;
  for (const Segment& s : w.segments)
    if (std::find(names.begin(), names.end(), info(s.format).name) == names.end())
      names.emplace_back(info(s.format).name);
  std::string joined;
  for (const std::string& name : names) joined += (joined.empty() ? "" : "+") + name;
  return joined;
}

py::array_t<float> unpack(const PackedWeight& w) {
  py::array_t<float> out({w.n, w.k});
  float* to = out.mutable_data();
  py::gil_scoped_release unlocked;
  for (int32_t row = 0; row < w.n; ++row, to += w.k) cpu_table().unpack_row(w, row, to);
  return out;
}

template <class T>
py::array view(std::vector<T>& values, std::vector<py::ssize_t> shape, py::handle owner) {
  return py::array(py::dtype::of<T>(), std::move(shape), values.data(), owner);
}

// The arrays as memoryviews, for code that does without NumPy. They do not keep the step alive.
template <class T>
py::memoryview raw(std::vector<T>& values, py::ssize_t cols) {
  const auto rows = static_cast<py::ssize_t>(values.size()) / cols;
  constexpr py::ssize_t item = sizeof(T);
  if (cols == 1) return py::memoryview::from_buffer(values.data(), {rows}, {item});
  return py::memoryview::from_buffer(values.data(), {rows, cols}, {cols * item, item});
}

py::memoryview raw_table(std::vector<int32_t>& pages, py::ssize_t rows, py::ssize_t cols) {
  return py::memoryview::from_buffer(pages.data(), {rows, cols}, {cols * py::ssize_t{4}, py::ssize_t{4}});
}

py::dict memoryviews(StepBuffers& s) {
  py::dict d;
  d["token_ids"] = raw(s.token_ids, 1), d["positions"] = raw(s.positions, 1);
  d["token_seqs"] = raw(s.token_seqs, 1), d["seq_starts"] = raw(s.seq_starts, 1);
  d["kv_lens"] = raw(s.kv_lens, 1), d["output_rows"] = raw(s.output_rows, 1);
  d["block_tables"] = raw_table(s.block_tables, s.max_seqs, s.max_pages);
  d["cross_lens"] = raw(s.cross_lens, 1);
  d["cross_tables"] = raw_table(s.cross_tables, s.max_seqs, s.max_cross_pages);
  d["sampling"] = raw(s.sampling, kSamplingCols);
  return d;
}

template <auto member>
py::cpp_function vector_view() {
  return py::cpp_function([](py::object self) {
    auto& values = self.cast<StepBuffers&>().*member;
    return view(values, {static_cast<py::ssize_t>(values.size())}, self);
  });
}

}  // namespace

StepBuffers::StepBuffers(int32_t tokens, int32_t seqs, int32_t outputs, int32_t pages, int32_t cross_pages)
    : max_tokens(tokens),
      max_seqs(seqs),
      max_outputs(outputs),
      max_pages(pages),
      max_cross_pages(cross_pages) {
  check(tokens > 0 && seqs > 0 && outputs > 0 && pages > 0,
        "Step: max_tokens, max_seqs, max_outputs and max_pages are ", tokens, ", ", seqs, ", ", outputs, ", ",
        pages, ", wanted positive numbers");
  check(cross_pages >= 0, "Step: max_cross_pages is ", cross_pages, ", wanted a number that is not negative");
  token_ids.resize(tokens), positions.resize(tokens), token_seqs.resize(tokens);
  seq_starts.resize(seqs + 1), kv_lens.resize(seqs);
  block_tables.resize(static_cast<size_t>(seqs) * pages);
  cross_lens.resize(seqs);
  cross_tables.resize(
      std::max<size_t>(1, static_cast<size_t>(seqs) * cross_pages));  // a view wants an address
  output_rows.resize(outputs);
  sampling.resize(static_cast<size_t>(outputs) * kSamplingCols);
}

Step StepBuffers::view() const {
  check(n_tokens <= max_tokens && n_seqs >= 0 && n_seqs <= max_seqs && n_outputs <= max_outputs,
        "Step: n_tokens, n_seqs and n_outputs are ", n_tokens, ", ", n_seqs, ", ", n_outputs,
        ", room is for ", max_tokens, ", ", max_seqs, ", ", max_outputs);
  return {n_tokens,           n_seqs,
          n_outputs,          max_pages,
          token_ids.data(),   positions.data(),
          token_seqs.data(),  seq_starts.data(),
          kv_lens.data(),     block_tables.data(),
          output_rows.data(), sampling.data(),
          max_cross_pages,    cross_lens.data(),
          cross_tables.data()};
}

void bind_memory(py::module_& m) {
  py::class_<Arena, std::shared_ptr<Arena>>(m, "Arena").def(py::init<size_t>(), py::arg("n_bytes"));

  py::class_<PackedWeight, std::shared_ptr<PackedWeight>>(
      m, "Packed",
      "A weight (N, K) in panels of 16 rows, as the kernels of matmul read it. lanner.ops.pack makes one of "
      "an\n"
      "array. It never changes, so any number of threads may use it at once.")
      .def(py::init(&pack_arrays), py::arg("sources"), py::kw_only(), py::arg("n_threads") = 1)
      .def_static("from_gguf", &pack_tensors, py::arg("gguf"), py::arg("tensors"), py::kw_only(),
                  py::arg("n_threads") = 1, py::arg("arena") = nullptr)
      .def_property_readonly(
          "shape", [](const PackedWeight& w) { return py::make_tuple(w.n, w.k); },
          "(N, K): outputs and inputs of a matmul.")
      .def_property_readonly(
          "nbytes", [](const PackedWeight& w) { return w.n_bytes; },
          "Bytes of the panels, the padding of the last one included.")
      .def_property_readonly("format", &format_of,
                             "Name of the format, such as 'q4_0'; names joined by + where several are fused.")
      .def_property_readonly(
          "formats",
          [](const PackedWeight& w) {
            std::vector<std::string> names;
            for (const Segment& s : w.segments) names.emplace_back(info(s.format).name);
            return names;
          },
          "The format of each fused weight.")
      .def_property_readonly("inputs",
                             [](const PackedWeight& w) {
                               constexpr const char* kNames[] = {"float", "int8", "int16"};
                               std::vector<std::string> names;
                               for (const Segment& s : w.segments)
                                 names.emplace_back(kNames[static_cast<int>(input_of(s.format))]);
                               return names;
                             })
      .def_property_readonly("segment_rows",
                             [](const PackedWeight& w) {
                               std::vector<int32_t> rows;
                               for (const Segment& s : w.segments) rows.push_back(s.n_rows);
                               return rows;
                             })
      .def("unpack", &unpack, "The float32 weights (N, K), bit for bit what dequantizing their source gives.")
      .def("__repr__", [](const PackedWeight& w) {
        return cat("Packed(shape=(", w.n, ", ", w.k, "), format='", format_of(w), "', nbytes=", w.n_bytes,
                   ")");
      });

  py::class_<KvCache, std::shared_ptr<KvCache>>(m, "KvCache")
      .def(py::init([](const std::string& format, int32_t layers, int32_t pages, int32_t heads, int32_t dim) {
             return std::make_shared<KvCache>(format_named(format), layers, pages, heads, dim);
           }),
           py::arg("format"), py::arg("n_layers"), py::arg("n_pages"), py::arg("n_kv_heads"),
           py::arg("head_dim"))
      .def_readonly("n_pages", &KvCache::n_pages)
      .def_property_readonly("page_bytes", &KvCache::page_bytes);
  m.attr("PAGE_POSITIONS") = kPagePositions;
  m.attr("BLOCK") = kBlock;
  m.attr("PANEL_ROWS") = kPanelRows;
  py::dict code_bytes;  // of a block of activations, by the form of its codes
  code_bytes["int8"] = int8_row_bytes(kBlock), code_bytes["int16"] = int16_row_bytes(kBlock);
  m.attr("CODE_BYTES") = code_bytes;

  py::class_<StepBuffers>(m, "Step")
      .def(py::init<int32_t, int32_t, int32_t, int32_t, int32_t>(), py::arg("max_tokens"),
           py::arg("max_seqs"), py::arg("max_outputs"), py::arg("max_pages"), py::arg("max_cross_pages") = 0)
      .def_readwrite("n_tokens", &StepBuffers::n_tokens)
      .def_readwrite("n_seqs", &StepBuffers::n_seqs)
      .def_readwrite("n_outputs", &StepBuffers::n_outputs)
      .def_readonly("max_tokens", &StepBuffers::max_tokens)
      .def_readonly("max_seqs", &StepBuffers::max_seqs)
      .def_readonly("max_outputs", &StepBuffers::max_outputs)
      .def_readonly("max_pages", &StepBuffers::max_pages)
      .def_readonly("max_cross_pages", &StepBuffers::max_cross_pages)
      .def("memoryviews", &memoryviews)
      .def_property_readonly("token_ids", vector_view<&StepBuffers::token_ids>())
      .def_property_readonly("positions", vector_view<&StepBuffers::positions>())
      .def_property_readonly("token_seqs", vector_view<&StepBuffers::token_seqs>())
      .def_property_readonly("seq_starts", vector_view<&StepBuffers::seq_starts>())
      .def_property_readonly("kv_lens", vector_view<&StepBuffers::kv_lens>())
      .def_property_readonly("cross_lens", vector_view<&StepBuffers::cross_lens>())
      .def_property_readonly("cross_tables",
                             [](py::object self) {
                               auto& s = self.cast<StepBuffers&>();
                               return view(s.cross_tables, {s.max_seqs, s.max_cross_pages}, self);
                             })
      .def_property_readonly("output_rows", vector_view<&StepBuffers::output_rows>())
      .def_property_readonly("block_tables",
                             [](py::object self) {
                               auto& s = self.cast<StepBuffers&>();
                               return view(s.block_tables, {s.max_seqs, s.max_pages}, self);
                             })
      .def_property_readonly("sampling", [](py::object self) {
        auto& s = self.cast<StepBuffers&>();
        return view(s.sampling, {s.max_outputs, kSamplingCols}, self);
      });
}

}  // namespace lanner
