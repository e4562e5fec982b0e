// Arrays in device memory, and what describes them to operations.
#include <memory>

#include "bind/cuda/bind.h"
#include "bind/cuda/device_array.h"
#include "cuda/op.h"

namespace py = pybind11;

namespace lanner::cuda {

namespace {

py::dict info() {
  const DeviceInfo& d = device_info();
  py::dict out;
  out["name"] = d.name;
  out["sm_version"] = d.sm_version;
  out["n_sms"] = d.n_sms;
  out["n_bytes"] = d.n_bytes;
  return out;
}

void upload(const DeviceArray& a, const py::buffer& from, size_t offset) {
  const py::buffer_info host = from.request();
  const size_t n_bytes = static_cast<size_t>(host.size * host.itemsize);
  check(PyBuffer_IsContiguous(host.view(), 'C'), "DeviceArray.upload: the array is not contiguous");
  check_range(a, offset, n_bytes);
  copy_to_device(a.data() + offset, host.ptr, n_bytes, nullptr);
  synchronize(nullptr);
}

py::bytes download(const DeviceArray& a, size_t offset, size_t n_bytes) {
  check_range(a, offset, n_bytes);
  py::bytes host(nullptr, n_bytes);
  copy_to_host(PyBytes_AS_STRING(host.ptr()), a.data() + offset, n_bytes, nullptr);
  return host;
}

}  // namespace

void bind_memory(py::module_& m) {
  m.def("device_info", &info, "The GPU: name, sm_version, n_sms, n_bytes. DeviceError without one.");
  m.def("free_bytes", &free_bytes, "Of the GPU's memory, now.");

  py::class_<DeviceArray, std::shared_ptr<DeviceArray>>(m, "DeviceArray",
                                                        "Bytes of device memory, zero at first.")
      .def(py::init<size_t>(), py::arg("n_bytes"))
      .def("upload", &upload, py::arg("array"), py::arg("offset") = 0)
      .def("download", &download, py::arg("offset"), py::arg("n_bytes"))
      .def_property_readonly("address",
                             [](const DeviceArray& a) { return reinterpret_cast<uintptr_t>(a.data()); })
      .def_readonly("nbytes", &DeviceArray::n_bytes);

  py::enum_<WeightType>(m, "WeightType")
      .value("bf16", WeightType::kBf16)
      .value("int8", WeightType::kInt8)
      .value("int4", WeightType::kInt4);
}

}  // namespace lanner::cuda
