#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "bind/bind.h"
#include "bind/gil.h"
#include "core/check.h"
#include "core/cpu.h"
#include "core/memory.h"
#include "core/pool.h"
#include "cpu/backend.h"

namespace py = pybind11;

namespace lanner {

namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void check_bandwidth_probe(const char* op, int n_threads, size_t n_bytes, int n_runs) {
  check(n_threads >= 1 && n_bytes >= 4096 && n_runs >= 1, op, ": n_threads, n_bytes and n_runs are ",
        n_threads, ", ", n_bytes, ", ", n_runs, ", wanted at least 1, 4096 and 1");
  check(n_threads <= kMaxThreads, op, ": n_threads is ", n_threads, ", wanted at most ", kMaxThreads);
}

// Bytes per second that n_threads read together from n_bytes of memory, best of `n_runs`.
double probe_read_bandwidth(int n_threads, size_t n_bytes, int n_runs) {
  check_bandwidth_probe("probe_read_bandwidth", n_threads, n_bytes, n_runs);
  const size_t slice = std::max<size_t>(n_bytes / n_threads / 512, 1) * 512;
  Memory memory(slice * n_threads);
  memory.advise_huge();
  Pool::get().run(n_threads, [&](int id) { std::memset(memory.data() + slice * id, 1, slice); });
  double best = 0;
  for (int run = 0; run < n_runs; ++run) {
    const auto start = std::chrono::steady_clock::now();
    std::atomic<int> positive{0};
    Pool::get().run(n_threads, [&](int id) {
      positive += cpu_table().probe_read(memory.data() + slice * id, slice) > 0;
    });
    best = std::max(best, static_cast<double>(slice * n_threads) / seconds_since(start));
  }
  return best;
}

// Bytes per second, those read and those written both counted, that n_threads copy together within n_bytes of
// memory, half of it source; best of `n_runs`.
double probe_copy_bandwidth(int n_threads, size_t n_bytes, int n_runs) {
  check_bandwidth_probe("probe_copy_bandwidth", n_threads, n_bytes, n_runs);
  const size_t slice = std::max<size_t>(n_bytes / 2 / n_threads / 256, 1) * 256, half = slice * n_threads;
  Memory memory(2 * half);
  memory.advise_huge();
  Pool::get().run(n_threads, [&](int id) {
    std::memset(memory.data() + slice * id, 1, slice);
    std::memset(memory.data() + half + slice * id, 0, slice);
  });
  double best = 0;
  for (int run = 0; run < n_runs; ++run) {
    const auto start = std::chrono::steady_clock::now();
    Pool::get().run(n_threads, [&](int id) {
      cpu_table().probe_copy(memory.data() + slice * id, memory.data() + half + slice * id, slice);
    });
    best = std::max(best, static_cast<double>(2 * half) / seconds_since(start));
  }
  check(std::memcmp(memory.data(), memory.data() + half, half) == 0,
        "probe_copy_bandwidth: the copy differs from its source");
  return best;
}

// float32 multiply-adds per second of n_threads together, best of `n_runs` of about 20 ms.
double probe_fma(int n_threads, int n_runs) {
  check(n_threads >= 1 && n_runs >= 1, "probe_fma: n_threads and n_runs are ", n_threads, " and ", n_runs,
        ", wanted at least 1");
  double best = 0;
  for (int run = 0; run < n_runs; ++run) {
    const auto start = std::chrono::steady_clock::now();
    std::atomic<int64_t> total{0};
    Pool::get().run(n_threads, [&](int) { total += static_cast<int64_t>(cpu_table().probe_fma(8'000'000)); });
    best = std::max(best, static_cast<double>(total.load()) / seconds_since(start));
  }
  return best;
}

// Users meet the errors as lanner.ModelFileError and so on.
template <class Error>
void register_error(py::module_& m, const char* name, PyObject* base = PyExc_Exception) {
  py::register_exception<Error>(m, name, base).attr("__module__") = "lanner";
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "Kernels, parsers and the program executor of Lanner.";
  register_error<ModelFileError>(m, "ModelFileError");
  register_error<UnsupportedModelError>(m, "UnsupportedModelError");
  register_error<OutOfMemoryBudget>(m, "OutOfMemoryBudget", PyExc_MemoryError);
  register_error<DeviceError>(m, "DeviceError");
  register_error<Cancelled>(m, "Cancelled");
  cpu_table();  // a wrong LANNER_ISA fails here, at import

  bind_array(m);
  bind_mapped_file(m);
  bind_gguf(m);
  bind_bpe(m);
  bind_packed(m);
  bind_spm(m);
  bind_memory(m);
  bind_profile(m);
  bind_program(m);
  bind_logits(m);
  m.attr("MAX_THREADS") = kMaxThreads;
  m.def("isa", [] { return cpu_table().name; });
  m.def("runnable_isas", &runnable_isas);
  m.def("probe_read_bandwidth", &probe_read_bandwidth, py::arg("n_threads"), py::arg("n_bytes"),
        py::arg("n_runs") = 5, py::call_guard<ReleasedGil>());
  m.def("probe_copy_bandwidth", &probe_copy_bandwidth, py::arg("n_threads"), py::arg("n_bytes"),
        py::arg("n_runs") = 5, py::call_guard<ReleasedGil>());
  m.def("probe_fma", &probe_fma, py::arg("n_threads"), py::arg("n_runs") = 5, py::call_guard<ReleasedGil>());
}

}  // namespace lanner
