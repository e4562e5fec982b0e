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
  m.def(
      "attention_workspace",
      [](const py::dict& bounds, const py::kwargs& values) {
        const auto args = Fields("attention_workspace", values).read<AttentionArgs>();
        check(args);
        const AttentionWorkspace needed = attention_workspace(args, read_bounds(bounds));
        return py::make_tuple(needed.n_bytes, needed.n_counters);
      },
      py::arg("bounds"), "(bytes, counters) that attention_decode needs.");
  m.attr("SAMPLE_SCRATCH_BYTES") = sizeof(SampleScratch);  // for each row
}

}  // namespace lanner::cuda
