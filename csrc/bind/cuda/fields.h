// Reads the named arguments of an operation into its argument struct, by the names of its each_field().
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <type_traits>

#include "bind/cuda/device_array.h"
#include "cuda/op.h"

namespace lanner::cuda {

class Fields {
 public:
  Fields(const char* op, const pybind11::dict& values) : op_(op), values_(values) {}

  template <class Args>
  Args read() {
    Args args{};
    args.each_field([this](const char* name, auto& member) { take(name, member); });
    for (const auto& [name, value] : values_)
      check(taken_.contains(name), op_, ": there is no argument '", std::string(pybind11::str(name)), "'");
    return args;
  }

 private:
  // Device addresses: a DeviceArray, (DeviceArray, offset in bytes), or None.
  static std::byte* address(const pybind11::handle& value) {
    if (value.is_none()) return nullptr;
    if (!pybind11::isinstance<pybind11::tuple>(value)) return value.cast<const DeviceArray&>().data();
    const auto pair = value.cast<pybind11::tuple>();
    const auto& array = pair[0].cast<const DeviceArray&>();
    const auto offset = pair[1].cast<size_t>();
    check(offset < array.n_bytes, "an offset of ", offset, " lies outside an array of ", array.n_bytes,
          " bytes");
    return array.data() + offset;
  }

  template <class T>
  void take(const char* name, T& member) {
    taken_[name] = true;
    if (!values_.contains(name)) {
      if constexpr (!std::is_same_v<T, Weight> && !std::is_same_v<T, RowCount>)
        return;  // absent: null or zero
      check(false, op_, ": ", name, " is missing");
    }
    const pybind11::object value = values_[name];
    if constexpr (std::is_pointer_v<T>)
      member = reinterpret_cast<T>(address(value));
    else if constexpr (std::is_arithmetic_v<T>)
      member = value.cast<T>();
    else if constexpr (std::is_enum_v<T>)
      member = static_cast<T>(value.cast<int>());
    else if constexpr (std::is_same_v<T, Weight>)  // (type, n, k, codes, scales)
      member = weight(value.cast<pybind11::tuple>());
    else if constexpr (std::is_same_v<T, RowCount>)  // ("tokens" or "outputs", address of the count)
      member = row_count(value.cast<pybind11::tuple>());
    else  // a struct of fields: a dict
      member = Fields(op_, value.cast<pybind11::dict>()).read<T>();
  }
  Weight weight(const pybind11::tuple& t) {
    check(t.size() == 5, op_, ": a weight has 5 parts, got ", t.size());
    return {t[0].cast<WeightType>(), t[1].cast<int32_t>(), t[2].cast<int32_t>(), address(t[3]),
            address(t[4])};
  }
  RowCount row_count(const pybind11::tuple& t) {
    check(t.size() == 2, op_, ": rows has 2 parts, got ", t.size());
    const auto kind = t[0].cast<std::string>();
    check(kind == "tokens" || kind == "outputs", op_, ": rows are '", kind,
          "', wanted 'tokens' or 'outputs'");
    return {reinterpret_cast<const int32_t*>(address(t[1])),
            kind == "tokens" ? RowKind::kTokens : RowKind::kOutputs};
  }

  const char* op_;
  pybind11::dict values_, taken_;
};

}  // namespace lanner::cuda
