// The KV cache and the arrays of a step.
#include <utility>

#include "bind/bind.h"
#include "bind/step.h"
#include "core/check.h"
#include "ops/kv_cache.h"
#include "ops/packed.h"
#include "ops/quantize_rows.h"

namespace py = pybind11;

namespace lanner {

namespace {

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

int32_t* table_of(const StepBuffers& s) { return reinterpret_cast<int32_t*>(s.block_tables.data()); }

py::memoryview raw_table(int32_t* pages, py::ssize_t rows, py::ssize_t cols) {
  return py::memoryview::from_buffer(pages, {rows, cols}, {cols * py::ssize_t{4}, py::ssize_t{4}});
}

py::dict memoryviews(StepBuffers& s) {
  py::dict d;
  d["token_ids"] = raw(s.token_ids, 1), d["positions"] = raw(s.positions, 1);
  d["token_seqs"] = raw(s.token_seqs, 1), d["seq_starts"] = raw(s.seq_starts, 1);
  d["kv_lens"] = raw(s.kv_lens, 1), d["output_rows"] = raw(s.output_rows, 1);
  d["block_tables"] = raw_table(table_of(s), s.n_groups * s.max_seqs, s.max_pages);
  d["cross_lens"] = raw(s.cross_lens, 1);
  d["cross_tables"] = raw_table(s.cross_tables.data(), s.max_seqs, s.max_cross_pages);
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

StepBuffers::StepBuffers(int32_t tokens, int32_t seqs, int32_t outputs, int32_t pages, int32_t cross_pages,
                         int32_t groups)
    : max_tokens(tokens),
      max_seqs(seqs),
      max_outputs(outputs),
      max_pages(pages),
      max_cross_pages(cross_pages),
      n_groups(groups) {
  check(tokens > 0 && seqs > 0 && outputs > 0 && pages > 0,
        "Step: max_tokens, max_seqs, max_outputs and max_pages are ", tokens, ", ", seqs, ", ", outputs, ", ",
        pages, ", wanted positive numbers");
  check(cross_pages >= 0, "Step: max_cross_pages is ", cross_pages, ", wanted a number that is not negative");
  check(groups > 0 && groups <= kMaxGroups, "Step: n_groups is ", groups, ", wanted 1 to ", kMaxGroups);
  block_tables = Memory(sizeof(int32_t) * groups * seqs * pages);
  token_ids.resize(tokens), positions.resize(tokens), token_seqs.resize(tokens);
  seq_starts.resize(seqs + 1), kv_lens.resize(seqs);
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
          max_seqs,           n_groups,
          token_ids.data(),   positions.data(),
          token_seqs.data(),  seq_starts.data(),
          kv_lens.data(),     table_of(*this),
          output_rows.data(), sampling.data(),
          max_cross_pages,    cross_lens.data(),
          cross_tables.data()};
}

void bind_memory(py::module_& m) {
  py::class_<KvCache, std::shared_ptr<KvCache>>(m, "KvCache")
      .def(py::init([](const std::string& format, int32_t layers, int32_t pages, int32_t heads, int32_t dim,
                       int32_t group) {
             return std::make_shared<KvCache>(kv_type_named(format), layers, pages, heads, dim, group);
           }),
           py::arg("format"), py::arg("n_layers"), py::arg("n_pages"), py::arg("n_kv_heads"),
           py::arg("head_dim"), py::arg("group") = 0)
      .def("copy_page", &KvCache::copy_page, py::arg("source"), py::arg("target"))
      .def_readonly("n_layers", &KvCache::n_layers)
      .def_readonly("n_pages", &KvCache::n_pages)
      .def_readonly("group", &KvCache::group)
      .def_property_readonly("page_bytes", &KvCache::page_bytes);
  m.attr("PAGE_POSITIONS") = kPagePositions;
  m.attr("BLOCK") = kBlock;
  m.attr("PANEL_ROWS") = kPanelRows;
  py::dict code_bytes;  // of a block of activations, by the form of its codes
  code_bytes["int8"] = int8_row_bytes(kBlock), code_bytes["int16"] = int16_row_bytes(kBlock);
  m.attr("CODE_BYTES") = code_bytes;

  py::class_<StepBuffers>(m, "Step")
      .def(py::init<int32_t, int32_t, int32_t, int32_t, int32_t, int32_t>(), py::arg("max_tokens"),
           py::arg("max_seqs"), py::arg("max_outputs"), py::arg("max_pages"), py::arg("max_cross_pages") = 0,
           py::arg("n_groups") = 1)
      .def_readwrite("n_tokens", &StepBuffers::n_tokens)
      .def_readwrite("n_seqs", &StepBuffers::n_seqs)
      .def_readwrite("n_outputs", &StepBuffers::n_outputs)
      .def_readonly("max_tokens", &StepBuffers::max_tokens)
      .def_readonly("max_seqs", &StepBuffers::max_seqs)
      .def_readonly("max_outputs", &StepBuffers::max_outputs)
      .def_readonly("max_pages", &StepBuffers::max_pages)
      .def_readonly("max_cross_pages", &StepBuffers::max_cross_pages)
      .def_readonly("n_groups", &StepBuffers::n_groups)
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
                               return py::array(py::dtype::of<int32_t>(),
                                                {s.n_groups * s.max_seqs, s.max_pages}, table_of(s), self);
                             })
      .def_property_readonly("sampling", [](py::object self) {
        auto& s = self.cast<StepBuffers&>();
        return view(s.sampling, {s.max_outputs, kSamplingCols}, self);
      });
}

}  // namespace lanner
