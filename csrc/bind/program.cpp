// Program, and every operation of a program as a function on arrays under its program name.
#include "program/program.h"

#include "bind/fields.h"
#include "bind/gil.h"
#include "bind/step.h"
#include "cpu/backend.h"

namespace py = pybind11;

namespace lanner {

namespace {

// A program and the Python objects whose memory its instructions point into.
struct PyProgram : Program {
  using Program::Program;
  std::vector<py::object> owners;

  void add_named(const std::string& op, const std::string& name, py::dict values, bool barrier) {
#define LANNER_ADD(known, Args)                                \
  if (op == #known) {                                          \
    Fields fields(#known, values, this, nullptr);              \
    add<Args>(#known, name, barrier, read_args<Args>(fields)); \
    owners.push_back(values.attr("copy")());                   \
    return;                                                    \
  }
    LANNER_OPS(LANNER_ADD)
#undef LANNER_ADD
    throw std::invalid_argument(cat("Program.add: there is no operation named '", op, "'"));
  }
};

// Runs one operation over all its units on the calling thread.
template <class Args>
void run_alone(const StepBuffers& buffers, const py::kwargs& values) {
  const Step step = buffers.view();
  Fields fields(OpTraits<Args>::kName, values, nullptr, &step);
  Args args = read_args<Args>(fields);
  check(args);
  const char* op = OpTraits<Args>::kName;
  if constexpr (std::is_same_v<Args, EmbedArgs>) check_token_ids(op, step, args.weight->n);
  if constexpr (std::is_same_v<Args, GatherRowsArgs>) check_output_rows(op, step);
  if constexpr (std::is_same_v<Args, AddPositionsArgs>) check_positions(op, step, n_positions(args));
  if constexpr (requires { args.n_experts; })
    check_ids(op, args.ids, step.rows(args.ids.kind), args.n_experts);
  CacheLimits caches;
  caches.add(args);
  check_sequences(op, step, caches);
  ReleasedGil unlocked;
  AttentionPlan plan;
  if constexpr (std::is_same_v<Args, AttentionArgs>) prepare(*(args.plan = &plan), args, step);
  Memory scratch(kScratchBytes);
  Worker worker;
  worker.scratch = scratch.data();
  OpTraits<Args>::kernel(cpu_table())(&args, step, worker, 0, units(args, step));
}

template <class T>
py::array slot_view(py::object self, const Slot& slot, int32_t n_rows) {
  const auto& program = self.cast<const PyProgram&>();
  return py::array(py::dtype::of<T>(), {n_rows, slot.cols},
                   reinterpret_cast<T*>(program.arena() + slot.offset), self);
}

// The shared copy of a slot; meaningful after a run for values that the list does not overwrite.
py::array view(py::object self, const Slot& slot, int32_t n_rows) {
  const size_t item = slot.dtype == "float32" || slot.dtype == "int32" ? 4 : 1;
  const auto& program = self.cast<const PyProgram&>();
  check(n_rows >= 0 && slot.cols >= 0 && slot.offset <= program.arena_bytes() &&
            size_t(n_rows) * size_t(slot.cols) * item <= program.arena_bytes() - slot.offset,
        "Program.view: ", n_rows, " rows of ", slot.cols, " columns lie outside the arena");
  if (slot.dtype == "float32") return slot_view<float>(self, slot, n_rows);
  if (slot.dtype == "int32") return slot_view<int32_t>(self, slot, n_rows);
  return slot_view<uint8_t>(self, slot, n_rows);
}

// Rows of float32, for code that does without NumPy; it does not keep the program alive.
py::memoryview memoryview(const PyProgram& program, const Slot& slot, int32_t n_rows) {
  check(slot.dtype == "float32" && n_rows >= 0 && slot.cols > 0 && slot.offset <= program.arena_bytes() &&
            size_t(n_rows) * size_t(slot.cols) * 4 <= program.arena_bytes() - slot.offset,
        "Program.memoryview: ", n_rows, " rows of ", slot.dtype, " lie outside the arena or are not float32");
  return py::memoryview::from_buffer(reinterpret_cast<float*>(program.arena() + slot.offset),
                                     {py::ssize_t{n_rows}, py::ssize_t{slot.cols}},
                                     {py::ssize_t{slot.cols} * 4, py::ssize_t{4}});
}

// The first column of an int32 slot.
std::vector<int32_t> read_ids(const PyProgram& program, const Slot& slot, int32_t n_rows) {
  check(slot.dtype == "int32" && n_rows >= 0 && slot.cols >= 0 && slot.offset <= program.arena_bytes() &&
            size_t(n_rows) * size_t(slot.cols) * 4 <= program.arena_bytes() - slot.offset,
        "Program.read_ids: ", n_rows, " rows of ", slot.dtype, " lie outside the arena or are not int32");
  const auto* from = reinterpret_cast<const int32_t*>(program.arena() + slot.offset);
  std::vector<int32_t> ids(n_rows);
  for (int32_t r = 0; r < n_rows; ++r) ids[r] = from[static_cast<int64_t>(r) * slot.cols];
  return ids;
}

RowKind kind_named(const std::string& name) {
  check(name == "tokens" || name == "outputs", "kind is '", name, "', wanted 'tokens' or 'outputs'");
  return name == "tokens" ? RowKind::kTokens : RowKind::kOutputs;
}

}  // namespace

void bind_program(py::module_& m) {
  py::class_<Slot>(m, "Slot").def(
      py::init([](size_t offset, const std::string& dtype, int32_t cols, const std::string& kind,
                  size_t first_copy, size_t copy_bytes) {
        return Slot{offset, dtype, cols, kind_named(kind), first_copy, copy_bytes};
      }),
      py::arg("offset"), py::arg("dtype"), py::arg("cols"), py::arg("kind"), py::arg("first_copy") = 0,
      py::arg("copy_bytes") = 0);

  py::class_<Buffer>(m, "Buffer")
      .def(py::init([](py::array array, const std::string& kind) {
             return Buffer{std::move(array), kind_named(kind)};
           }),
           py::arg("array"), py::arg("kind"))
      .def_readonly("array", &Buffer::array);

  py::class_<PyProgram>(m, "Program")
      .def(py::init<size_t, int, int32_t, int32_t>(), py::arg("arena_bytes"), py::arg("n_threads"),
           py::arg("max_tokens"), py::arg("max_outputs"))
      .def("add", &PyProgram::add_named, py::arg("op"), py::arg("name"), py::arg("values"),
           py::arg("barrier"))
      .def(
          "run",
          [](PyProgram& p, const StepBuffers& step, std::optional<double> deadline) {
            const Step view = step.view();
            ReleasedGil unlocked;
            return p.run(view, deadline.value_or(kForever));
          },
          py::arg("step"), py::arg("deadline") = py::none())
      .def("cancel", &Program::cancel)
      .def("clear_cancel", &Program::clear_cancel)
      .def(
          "enable_profile", [](PyProgram& p, bool on) { p.profiler().enable(on); }, py::arg("on"))
      .def("take_profile", [](PyProgram& p) { return p.profiler().take(); })
      .def("read_ids", &read_ids, py::arg("slot"), py::arg("n_rows"))
      .def("memoryview", &memoryview, py::arg("slot"), py::arg("n_rows"))
      .def("view", &view, py::arg("slot"), py::arg("n_rows"))
      .def(
          "cost",
          [](const PyProgram& p, size_t index, const StepBuffers& step) {
            check(index < p.instructions().size(), "Program.cost: index is ", index, ", the list has ",
                  p.instructions().size());
            const Instruction& i = p.instructions()[index];
            const Cost cost = i.cost(i.raw, step.view());
            return py::make_tuple(cost.n_bytes, cost.n_flops);
          },
          py::arg("index"), py::arg("step"))
      .def_property_readonly("n_threads", &Program::n_threads)
      .def_property_readonly("arena_bytes", &Program::arena_bytes)
      .def("__len__", [](const PyProgram& p) { return p.instructions().size(); });

  py::class_<ThreadLimit>(m, "ThreadLimit")
      .def(py::init())
      .def("most", &ThreadLimit::most, py::arg("n_threads"), py::arg("now_s"))
      .def(
          "note",
          [](ThreadLimit& limit, int n_wanted, int n_came, double wall_s, double lost_s, double now_s) {
            limit.note({n_wanted, n_came, wall_s, lost_s}, now_s);
          },
          py::arg("n_wanted"), py::arg("n_came"), py::arg("wall_s"), py::arg("lost_s"), py::arg("now_s"));
  m.def("set_all_threads", [](bool always) { Program::all_threads_always = always; }, py::arg("always"));
  m.attr("REPLICATED_ROWS") = kReplicatedRows;

  py::module_ ops =
      m.def_submodule("ops", "Every operation of a program, on arrays (Buffer), on the calling thread.");
#define LANNER_FUNCTION(op, Args)                                                                    \
  ops.def(                                                                                           \
      #op, [](const StepBuffers& step, const py::kwargs& values) { run_alone<Args>(step, values); }, \
      py::arg("step"));
  LANNER_OPS(LANNER_FUNCTION)
#undef LANNER_FUNCTION
}

}  // namespace lanner
