// The kernels of this folder for Python: arrays in, arrays out.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "bind/cuda/bind.h"
#include "cuda/emulator/control.h"
#include "cuda/runtime.h"
#include "planted.h"

namespace py = pybind11;
using namespace lanner::cuda;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

struct OnDevice {
  explicit OnDevice(size_t n) : n_bytes(n), p(allocate(n)) { emulated::mark_unwritten(p, n); }
  template <class T>
  explicit OnDevice(const Array<T>& a) : OnDevice(static_cast<size_t>(a.nbytes())) {
    copy_to_device(p, a.data(), n_bytes, nullptr);
  }
  ~OnDevice() { release(p); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  template <class T>
  T* as() const {
    return static_cast<T*>(p);
  }
  template <class T>
  Array<T> to_host(std::vector<py::ssize_t> shape) const {
    Array<T> out(shape);
    copy_to_host(out.mutable_data(), p, n_bytes, nullptr);
    return out;
  }
  size_t n_bytes;
  void* p;
};

template <class Variant>
Variant variant_of(const std::string& name, std::initializer_list<const char*> names) {
  int i = 0;
  for (const char* known : names) {
    if (name == known) return static_cast<Variant>(i);
    ++i;
  }
  throw py::value_error("no variant " + name);
}
#define LANNER_QUOTED(name) , #name
#define LANNER_VARIANT_OF(Enum, List, name) variant_of<Enum>(name, {"none" List(LANNER_QUOTED)})

template <class Run>
Array<float> gemm(const Array<uint16_t>& a, const Array<uint16_t>& b, Run run) {
  const OnDevice x(a), y(b);
  const int m = static_cast<int>(a.shape(0)), n = static_cast<int>(b.shape(0)),
            k = static_cast<int>(a.shape(1));
  const OnDevice d(sizeof(float) * static_cast<size_t>(m * n));
  run(GemmArgs{x.as<bf16>(), y.as<bf16>(), d.as<float>(), m, n, k});
  return d.to_host<float>({m, n});
}

Array<float> sums(const std::string& variant, const Array<float>& x, int n_splits) {
  const int rows = static_cast<int>(x.shape(0)), columns = static_cast<int>(x.shape(1));
  const OnDevice device_x(x);
  const OnDevice partials(sizeof(float) * static_cast<size_t>(rows * n_splits));
  const OnDevice n_done(sizeof(int32_t) * static_cast<size_t>(rows)),
      out(sizeof(float) * static_cast<size_t>(rows));
  fill(n_done.p, 0, n_done.n_bytes, nullptr);
  const SumsVariant v = LANNER_VARIANT_OF(SumsVariant, LANNER_SUMS_VARIANTS, variant);
  if (v == SumsVariant::order_of_arrival) fill(out.p, 0, out.n_bytes, nullptr);
  planted_sums(
      v,
      {device_x.as<float>(), partials.as<float>(), n_done.as<int32_t>(), out.as<float>(), columns, n_splits},
      rows);
  return out.to_host<float>({rows});
}

}  // namespace

PYBIND11_MODULE(_cuda_planted, m) {
  bind_emulator(m);
  m.def("gemm", [](const std::string& variant, const Array<uint16_t>& a, const Array<uint16_t>& b) {
    return gemm(a, b, [&](const GemmArgs& g) {
      planted_gemm(LANNER_VARIANT_OF(GemmVariant, LANNER_GEMM_VARIANTS, variant), g);
    });
  });
  m.def("wgmma", [](const std::string& variant, const Array<uint16_t>& a, const Array<uint16_t>& b) {
    return gemm(a, b, [&](const GemmArgs& g) {
      planted_wgmma(LANNER_VARIANT_OF(WgmmaVariant, LANNER_WGMMA_VARIANTS, variant), g);
    });
  });
  m.def("sums", &sums);
  m.def("load_matrices", [](const Array<uint16_t>& rows, int n_matrices, bool transposed) {
    const OnDevice x(rows), out(sizeof(uint32_t) * 32 * static_cast<size_t>(n_matrices));
    run_load_matrices(x.as<bf16>(), out.as<uint32_t>(), n_matrices, transposed);
    return out.to_host<uint32_t>({32, n_matrices});
  });
  m.def("mma", [](const Array<uint32_t>& a, const Array<uint32_t>& b, const Array<float>& d) {
    const OnDevice x(a), y(b), z(d);
    run_mma(x.as<uint32_t>(), y.as<uint32_t>(), z.as<float>());
    return z.to_host<float>({32, 4});
  });
  m.def("mma_int8", [](const Array<uint32_t>& a, const Array<uint32_t>& b, const Array<int32_t>& d) {
    const OnDevice x(a), y(b), z(d);
    run_mma_int8(x.as<uint32_t>(), y.as<uint32_t>(), z.as<int32_t>());
    return z.to_host<int32_t>({32, 4});
  });
  m.def("load_tile", [](const Array<uint16_t>& matrix, int box_rows, int row, int column) {
    const OnDevice x(matrix), out(128 * static_cast<size_t>(box_rows));
    run_load_tile(x.as<bf16>(), out.as<bf16>(), static_cast<int>(matrix.shape(0)),
                  static_cast<int>(matrix.shape(1)), box_rows, row, column);
    return out.to_host<uint16_t>({box_rows, 64});
  });
}
