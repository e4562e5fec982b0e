// Every operation as a function on device arrays.
#include "cuda/ops.h"

#include "bind/cuda/bind.h"
#include "bind/cuda/fields.h"

namespace py = pybind11;

namespace lanner::cuda {

namespace {

Bounds read_bounds(const py::dict& values) {
  Bounds b;
  const auto take = [&](const char* name, int32_t& n) {
    if (values.contains(name)) n = values[name].cast<int32_t>();
    check(n >= 0, "bounds: ", name, " is ", n, ", wanted at least 0");
  };
  take("n_tokens", b.n_tokens), take("n_seqs", b.n_seqs), take("n_outputs", b.n_outputs);
  take("n_keys", b.n_keys);
  return b;
}

// The first launch brings the code to the GPU and is not counted.
template <class F>
float time_launches(int repeats, F&& launch) {
  check(repeats >= 1, "timed: repeats is ", repeats, ", wanted at least 1");
  const py::gil_scoped_release unlocked;
  launch();
  const Event begin = create_event(), end = create_event();
  record(begin, nullptr);
  for (int i = 0; i < repeats; ++i) launch();
  record(end, nullptr);
  const float ms = milliseconds_between(begin, end);
  destroy_event(begin), destroy_event(end);
  return ms / static_cast<float>(repeats);
}

}  // namespace

void bind_ops(py::module_& m) {
  py::module_ ops = m.def_submodule("ops", "Every operation: launched with bounds, and finished on return.");
#define LANNER_FUNCTION(op, Args)                            \
  ops.def(                                                   \
      #op,                                                   \
      [](const py::dict& bounds, const py::kwargs& values) { \
        const Args args = Fields(#op, values).read<Args>();  \
        check(args);                                         \
        const Bounds b = read_bounds(bounds);                \
        py::gil_scoped_release unlocked;                     \
        op(args, b);                                         \
        synchronize(b.stream);                               \
      },                                                     \
      py::arg("bounds"));
  LANNER_CUDA_OPS(LANNER_FUNCTION)
#undef LANNER_FUNCTION

  py::module_ timed =
      m.def_submodule("timed", "Every operation, repeated: milliseconds of each time, by events.");
#define LANNER_TIMED(op, Args)                                            \
  timed.def(                                                              \
      #op,                                                                \
      [](const py::dict& bounds, int repeats, const py::kwargs& values) { \
        const Args args = Fields(#op, values).read<Args>();               \
        check(args);                                                      \
        const Bounds b = read_bounds(bounds);                             \
        return time_launches(repeats, [&] { op(args, b); });              \
      },                                                                  \
      py::arg("bounds"), py::arg("repeats"));
  LANNER_CUDA_OPS(LANNER_TIMED)
#undef LANNER_TIMED
  m.def(
      "attention_workspace",
      [](const py::dict& bounds, const py::kwargs& values) {
        const auto args = Fields("attention_workspace", values).read<AttentionArgs>();
        check(args);
        const AttentionWorkspace needed = attention_workspace(args, read_bounds(bounds));
        return py::make_tuple(needed.n_bytes, needed.n_counters);
      },
      py::arg("bounds"), "(bytes, counters) that attention_decode needs.");
  m.def(
      "linear_workspace",
      [](WeightType type, int32_t n, int32_t k) { return linear_workspace({type, n, k, nullptr, nullptr}); },
      py::arg("type"), py::arg("n"), py::arg("k"), "Bytes that `linear` needs for its workspace.");
  m.attr("SAMPLE_SCRATCH_BYTES") = sizeof(SampleScratch);  // for each row
  m.attr("SOFTMAX_PARTS") = kSoftmaxParts;                 // of a row, each a maximum and a sum
}

}  // namespace lanner::cuda
