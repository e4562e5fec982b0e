// The program of a GPU, filled by lanner.cuda.lowering.
#include "cuda/program.h"

#include <pybind11/stl.h>

#include "bind/cuda/bind.h"
#include "bind/cuda/fields.h"
#include "cuda/ops.h"

namespace py = pybind11;

namespace lanner::cuda {

namespace {

// The arrays of a lanner._core.Step: memoryviews that stay where they are as long as the step lives.
template <class T>
const T* array_of(const py::dict& arrays, const char* name) {
  const py::buffer_info view = arrays[name].cast<py::buffer>().request();
  check(view.itemsize == sizeof(T), "Program: ", name, " has elements of ", view.itemsize, " bytes, wanted ",
        sizeof(T));
  return static_cast<const T*>(view.ptr);
}

Step step_of(const StepSizes& sizes, const py::dict& arrays) {
  Step s;
  s.max_pages = sizes.max_pages, s.max_seqs = sizes.max_seqs, s.n_groups = sizes.n_groups;
  s.token_ids = array_of<int32_t>(arrays, "token_ids");
  s.positions = array_of<int32_t>(arrays, "positions");
  s.token_seqs = array_of<int32_t>(arrays, "token_seqs");
  s.seq_starts = array_of<int32_t>(arrays, "seq_starts");
  s.kv_lens = array_of<int32_t>(arrays, "kv_lens");
  s.block_tables = array_of<int32_t>(arrays, "block_tables");
  s.output_rows = array_of<int32_t>(arrays, "output_rows");
  s.sampling = array_of<float>(arrays, "sampling");
  return s;
}

// By group: pages of its caches, and how many positions a query sees, 0 for all up to its own.
CacheLimits limits_of(const std::vector<std::pair<int32_t, int32_t>>& groups) {
  CacheLimits limits;
  for (const auto& [n_pages, window] : groups)
    limits.groups.push_back({n_pages, window ? window : CacheLimits::kAllSeen});
  return limits;
}

struct PyProgram {
  PyProgram(const StepSizes& sizes, const py::dict& arrays, int32_t vocab_size,
            const std::vector<std::pair<int32_t, int32_t>>& groups)
      : memory(std::make_shared<DeviceArray>(StepLayout(sizes).n_bytes)),
        step(step_of(sizes, arrays)),
        program(sizes, memory->data(), vocab_size, limits_of(groups)) {}

  std::shared_ptr<DeviceArray> memory;  // of the step
  Step step;
  Program program;
  std::vector<py::object> owners;  // of memory that launches point into

  const Step& counted(int32_t n_tokens, int32_t n_seqs, int32_t n_outputs) {
    step.n_tokens = n_tokens, step.n_seqs = n_seqs, step.n_outputs = n_outputs;
    return step;
  }
};

Steps steps_named(const std::string& name) {
  check(name == "decode" || name == "other", "Program: steps are '", name, "', wanted decode or other");
  return name == "decode" ? Steps::kDecode : Steps::kOther;
}

void add_named(PyProgram& p, const std::string& steps, const std::string& op, const std::string& name,
               const py::dict& values) {
#define LANNER_ADD(known, Args)                                                                 \
  if (op == #known) {                                                                           \
    const Args args = Fields(#known, values).read<Args>();                                      \
    check(args);                                                                                \
    p.program.add(steps_named(steps), {name, op, [args](const Bounds& b) { known(args, b); }}); \
    p.owners.push_back(values.attr("copy")());                                                  \
    return;                                                                                     \
  }
  LANNER_CUDA_OPS(LANNER_ADD)
#undef LANNER_ADD
  check(false, "Program.add: there is no operation named '", op, "'");
}

py::dict step_fields(const PyProgram& p, int32_t group) {
  StepArrays a = p.program.step_arrays(group);
  py::dict out;
  a.each_field([&](const char* name, auto& member) {
    if constexpr (std::is_pointer_v<std::remove_reference_t<decltype(member)>>) {
      const auto* at = reinterpret_cast<const std::byte*>(member);
      out[name] = py::make_tuple(p.memory, static_cast<size_t>(at - p.memory->data()));
    } else {
      out[name] = member;
    }
  });
  return out;
}

std::vector<std::pair<std::string, std::string>> names(const PyProgram& p, const std::string& steps) {
  std::vector<std::pair<std::string, std::string>> out;
  for (const Launch& launch : p.program.launches(steps_named(steps)))
    out.emplace_back(launch.name, launch.op);
  return out;
}

}  // namespace

void bind_program(py::module_& m) {
  py::class_<PyProgram>(m, "Program",
                        "Launches over fixed device memory; the step's arrays are read at run().")
      .def(py::init([](const py::dict& sizes, const py::dict& arrays, int32_t vocab_size,
                       const std::vector<std::pair<int32_t, int32_t>>& groups) {
             const auto size = [&](const char* name) { return sizes[name].cast<int32_t>(); };
             return std::make_unique<PyProgram>(
                 StepSizes{size("max_tokens"), size("max_seqs"), size("max_outputs"), size("max_pages"),
                           size("n_groups"), size("max_keys"), size("n_positions")},
                 arrays, vocab_size, groups);
           }),
           py::arg("sizes"), py::arg("arrays"), py::arg("vocab_size"), py::arg("groups"),
           py::keep_alive<1, 3>())
      .def("step_fields", &step_fields, py::arg("group"),
           "The argument `step` of operations on layers of a group.")
      .def("add", &add_named, py::arg("steps"), py::arg("op"), py::arg("name"), py::arg("values"))
      .def(
          "set_ids",
          [](PyProgram& p, const DeviceArray& array, size_t offset) {
            check_range(array, offset, sizeof(int32_t));
            p.program.set_ids(reinterpret_cast<const int32_t*>(array.data() + offset));
          },
          py::arg("array"), py::arg("offset"), py::keep_alive<1, 2>())
      .def(
          "run",
          [](PyProgram& p, int32_t n_tokens, int32_t n_seqs, int32_t n_outputs) {
            const Step& step = p.counted(n_tokens, n_seqs, n_outputs);
            const py::gil_scoped_release unlocked;
            p.program.run(step);
          },
          py::arg("n_tokens"), py::arg("n_seqs"), py::arg("n_outputs"))
      .def(
          "run_timed",
          [](PyProgram& p, int32_t n_tokens, int32_t n_seqs, int32_t n_outputs) {
            const Step& step = p.counted(n_tokens, n_seqs, n_outputs);
            const py::gil_scoped_release unlocked;
            return p.program.run_timed(step);
          },
          py::arg("n_tokens"), py::arg("n_seqs"), py::arg("n_outputs"),
          "Milliseconds of every launch, without a graph.")
      .def_property_readonly("ids", [](const PyProgram& p) { return p.program.ids(); })
      .def(
          "read",
          [](PyProgram& p, const py::buffer& to, const DeviceArray& array, size_t offset) {
            const py::buffer_info host = to.request(true);
            const auto n_bytes = static_cast<size_t>(host.size * host.itemsize);
            check_range(array, offset, n_bytes);
            const py::gil_scoped_release unlocked;
            p.program.read(host.ptr, array.data() + offset, n_bytes);
          },
          py::arg("to"), py::arg("array"), py::arg("offset"))
      .def(
          "copy_within",
          [](PyProgram& p, const DeviceArray& array, size_t to, size_t from, size_t n_bytes) {
            check_range(array, to, n_bytes), check_range(array, from, n_bytes);
            copy_on_device(array.data() + to, array.data() + from, n_bytes, p.program.stream());
          },
          py::arg("array"), py::arg("to"), py::arg("from_"), py::arg("n_bytes"))
      .def("launches", &names, py::arg("steps"), "(name, operation) in order.")
      .def_property_readonly("n_graphs", [](const PyProgram& p) { return p.program.n_graphs(); });
  m.attr("GRAPH_ROWS") = kMostRowsOfGraph;
}

}  // namespace lanner::cuda
