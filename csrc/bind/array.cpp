#include "bind/array.h"

#include <atomic>

#include "core/check.h"
#include "core/pool.h"

namespace py = pybind11;

namespace lanner {

namespace {

// lanner.ops sets what the machine grants when it is imported.
std::atomic<int> n_threads{1};

int get_threads() { return n_threads.load(std::memory_order_relaxed); }

void set_threads(int n) {
  check(n >= 1 && n <= kMaxThreads, "set_threads: n is ", n, ", wanted 1 to ", kMaxThreads);
  n_threads.store(n, std::memory_order_relaxed);
}

}  // namespace

int array_threads(int64_t n_operations) { return n_operations < kAloneOperations ? 1 : get_threads(); }

void bind_array(py::module_& m) {
  py::module_ array =
      m.def_submodule("array", "Kernels on whole arrays; lanner.ops checks what they are given.");
  array.def("get_threads", &get_threads);
  array.def("set_threads", &set_threads, py::arg("n"));
  bind_array_rows(array);
  bind_array_attention(array);
  bind_array_matmul(array);
  bind_array_quantization(array);
}

}  // namespace lanner
