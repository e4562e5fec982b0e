// What tests set and ask of the emulation: the submodule emulator of _cuda_emulated.
#ifdef LANNER_CUDA_EMULATED
#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include "bind/cuda/bind.h"
#include "core/check.h"
#include "cuda/emulator/control.h"

namespace py = pybind11;

namespace lanner::cuda {

using namespace emulated;

namespace {

template <class E>
E choice(const char* name, const std::string& value,
         std::initializer_list<std::pair<const char*, E>> choices) {
  std::string names;
  for (const auto& [spelling, meaning] : choices) {
    if (value == spelling) return meaning;
    names += cat(names.empty() ? "" : ", ", spelling);
  }
  check(false, "configure: ", name, " is '", value, "', wanted one of ", names);
  __builtin_unreachable();
}

void configure_by_name(const std::string& order, uint64_t seed, const std::string& copies,
                       const std::string& tensor_copies, const std::string& wgmma, bool checks,
                       bool count_banks, int sm_version, int n_sms) {
  auto delivery = [](const char* name, const std::string& value) {
    return choice<Delivery>(name, value, {{"lazy", Delivery::lazy}, {"eager", Delivery::eager}});
  };
  Configuration c;
  c.order = choice<Order>(
      "order", order, {{"forward", Order::forward}, {"reverse", Order::reverse}, {"random", Order::random}});
  c.seed = seed;
  c.copies = delivery("copies", copies);
  c.tensor_copies = delivery("tensor_copies", tensor_copies);
  c.wgmma = delivery("wgmma", wgmma);
  c.checks = checks, c.count_banks = count_banks, c.sm_version = sm_version, c.n_sms = n_sms;
  configure(c);
}

py::list report_as_dicts() {
  py::list all;
  for (const Violation& v : report()) {
    py::dict one;
    one["kind"] = v.kind, one["message"] = v.message;
    all.append(one);
  }
  return all;
}

void call(const py::handle& callable, const RecordedLaunch& launch) {
  const py::gil_scoped_acquire locked;
  py::dict record;
  record["symbol"] = launch.symbol;
  record["grid"] = py::make_tuple(launch.grid[0], launch.grid[1], launch.grid[2]);
  record["block"] = launch.n_threads;
  record["shared_bytes"] = launch.shared_bytes;
  py::list params;
  for (const std::string& bytes : launch.params) params.append(py::bytes(bytes));
  record["params"] = params;
  callable(record);
}

// The module keeps the callable alive: a destructor that ran after Python had ended could not.
void set_callable(py::module_ m, const py::object& callable) {
  m.attr("_interpreter") = callable;
  if (callable.is_none()) return set_interpreter(nullptr);
  set_interpreter([handle = py::handle(callable)](const RecordedLaunch& launch) { call(handle, launch); });
}

}  // namespace

void bind_emulator(py::module_& parent) {
  py::module_ m = parent.def_submodule("emulator", "What the emulation does, and what it found.");
  m.def("configure", &configure_by_name, py::kw_only(), py::arg("order") = "forward", py::arg("seed") = 0,
        py::arg("copies") = "lazy", py::arg("tensor_copies") = "lazy", py::arg("wgmma") = "lazy",
        py::arg("checks") = true, py::arg("count_banks") = false, py::arg("sm_version") = 80,
        py::arg("n_sms") = 4,
        "order: 'forward', 'reverse', 'random' (of seed). copies, tensor_copies, wgmma: 'lazy', 'eager'.");
  m.def("report", &report_as_dicts, "Violations since the last call: dicts of kind and message.");
  m.def("counters", &counters, "Counts since the last call.");
  m.def(
      "set_interpreter", [m](const py::object& callable) { set_callable(m, callable); }, py::arg("callable"),
      "Launches call it with a dict of symbol, grid, block, shared_bytes and params; None: no longer.");
  m.def("allocations", &allocations, "(address, n_bytes) of live device memory.");
  m.def(
      "mark_unwritten",
      [](uintptr_t address, size_t n_bytes) { mark_unwritten(reinterpret_cast<void*>(address), n_bytes); },
      py::arg("address"), py::arg("n_bytes"), "Fills with 0xff what kernels must write before they read it.");
  m.def(
      "mark_written",
      [](uintptr_t address, size_t n_bytes) { mark_written(reinterpret_cast<void*>(address), n_bytes); },
      py::arg("address"), py::arg("n_bytes"), "Of bytes that were written by other means.");
}

}  // namespace lanner::cuda
#endif
