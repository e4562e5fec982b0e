// The module of the GPU, lanner._cuda, and of its emulation for tests, _cuda_emulated.
#include <pybind11/pybind11.h>

#include "bind/cuda/bind.h"
#include "core/check.h"

namespace py = pybind11;

namespace lanner::cuda {

namespace {

// Errors reach Python as those of lanner._core, whose module has a C++ runtime of its own.
void translate(std::exception_ptr thrown) {
  const auto raise = [](const char* name, const std::exception& error) {
    py::set_error(py::module_::import("lanner._core").attr(name), error.what());
  };
  try {
    if (thrown) std::rethrow_exception(thrown);
  } catch (const DeviceError& error) {
    raise("DeviceError", error);
  } catch (const OutOfMemoryBudget& error) {
    raise("OutOfMemoryBudget", error);
  } catch (const std::invalid_argument& error) {
    py::set_error(PyExc_ValueError, error.what());
  }
}

}  // namespace

PYBIND11_MODULE(LANNER_CUDA_MODULE, m) {
  m.doc() = "Operations on an NVIDIA GPU, on arrays in its memory.";
  py::register_local_exception_translator(&translate);
  bind_memory(m);
  bind_ops(m);
  bind_program(m);
#ifdef LANNER_CUDA_EMULATED
  bind_emulator(m);
#endif
}

}  // namespace lanner::cuda
