// StepProfile: what the threads of a program did in a step.
#include "program/profile.h"

#include "bind/bind.h"

namespace py = pybind11;

namespace lanner {

namespace {

// A copy of structs of N equal fields as an array (n, N).
template <class Field, int N, class Struct>
py::array_t<Field> table(const std::vector<Struct>& rows) {
  static_assert(sizeof(Struct) == N * sizeof(Field));
  return py::array_t<Field>({static_cast<py::ssize_t>(rows.size()), py::ssize_t{N}},
                            reinterpret_cast<const Field*>(rows.data()));
}

}  // namespace

void bind_profile(py::module_& m) {
  py::class_<StepProfile>(m, "StepProfile")
      .def_readonly("called_ns", &StepProfile::called_ns)
      .def_readonly("begin_ns", &StepProfile::begin_ns)
      .def_readonly("end_ns", &StepProfile::end_ns)
      .def_readonly("left_ns", &StepProfile::left_ns)
      .def_readonly("n_tokens", &StepProfile::n_tokens)
      .def_readonly("n_seqs", &StepProfile::n_seqs)
      .def_readonly("n_outputs", &StepProfile::n_outputs)
      .def_readonly("is_complete", &StepProfile::is_complete)
      .def_property_readonly("spans",
                             [](const StepProfile& step) {
                               py::list threads;
                               for (const auto& spans : step.spans) threads.append(table<int64_t, 3>(spans));
                               return threads;
                             })
      .def_property_readonly("costs", [](const StepProfile& step) { return table<double, 2>(step.costs); });
}

}  // namespace lanner
