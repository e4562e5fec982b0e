// Reads the named arguments of an operation into its argument struct. The same reader serves the program,
// where a value is a slot of the arena, and the NumPy functions, where it is an array.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <type_traits>

#include "bind/bind.h"
#include "program/program.h"

namespace lanner {

// NumPy's name of an element type; asking NumPy itself would import it, which a program does without.
template <class T>
constexpr const char* element_name() {
  return std::is_same_v<T, float>      ? "float32"
         : std::is_same_v<T, double>   ? "float64"
         : std::is_same_v<T, int32_t>  ? "int32"
         : std::is_same_v<T, uint64_t> ? "uint64"
                                       : "uint8";
}

// A value of a program: where it lies in the arena (offsets in bytes) and how its rows are counted.
struct Slot {
  size_t offset;
  std::string dtype;  // NumPy's name of the element type
  int32_t cols;
  RowKind kind;
  size_t first_copy, copy_bytes;
};

// An array that stands in for a slot: (rows, cols), C-contiguous.
struct Buffer {
  pybind11::array array;
  RowKind kind;
};

class Fields {
 public:
  // Slots are resolved in the arena of `program`; arrays, where there is none, must have the rows that `step`
  // asks for.
  Fields(const char* op, pybind11::dict values, const Program* program, const Step* step)
      : op_(op), values_(std::move(values)), program_(program), step_(step) {}

  // A value that the operation reads.
  template <class T>
  Rows<T> rows(const char* name) {
    return rows<T>(name, take(name), false);
  }
  // A value that it writes: an array must be writeable.
  template <class T>
  Rows<T> written(const char* name) {
    return rows<T>(name, take(name), true);
  }
  template <class T>
  Rows<T> optional_rows(const char* name, bool is_written = false) {
    pybind11::object value = find(name);
    return value.is_none() ? Rows<T>{} : rows<T>(name, value, is_written);
  }
  template <class T>
  Vector<T> vector(const char* name) {
    return vector<T>(name, take(name));
  }
  template <class T>
  Vector<T> optional_vector(const char* name) {
    pybind11::object value = find(name);
    return value.is_none() ? Vector<T>{} : vector<T>(name, value);
  }
  template <class T>
  Matrix<T> matrix(const char* name);
  Activation activation(const char* name, const char* otherwise = nullptr);
  template <class T>
  T number(const char* name) {
    return cast<T>(name, take(name));
  }
  template <class T>
  T number(const char* name, T otherwise) {
    pybind11::object value = find(name);
    return value.is_none() ? otherwise : cast<T>(name, value);
  }
  const PackedWeight* weight(const char* name) {
    return cast<std::shared_ptr<PackedWeight>>(name, take(name)).get();
  }
  LinearInput linear_input() {
    return {optional_rows<float>("x"), optional_rows<uint8_t>("int8"), optional_rows<uint8_t>("int16")};
  }
  KvCache* cache(const char* name) { return cast<std::shared_ptr<KvCache>>(name, take(name)).get(); }

  // Every value was asked for; a left-over name is an error.
  void finish() const;

 private:
  pybind11::object find(const char* name);
  pybind11::object take(const char* name);
  template <class T>
  T cast(const char* name, const pybind11::object& value) {
    try {
      return value.cast<T>();
    } catch (const pybind11::cast_error&) {
      throw pybind11::type_error(cat(op_, ": ", name, " is a ", type_name(value), ", which it cannot be"));
    }
  }
  template <class T>
  Rows<T> rows(const char* name, const pybind11::object& value, bool is_written) {
    Rows<T> out;
    locate(name, value, element_name<T>(), sizeof(T), is_written, out.base, out.cols, out.kind,
           out.first_copy, out.copy_bytes);
    return out;
  }
  template <class T>
  Vector<T> vector(const char* name, const pybind11::object& value);
  void locate(const char* name, const pybind11::object& value, const std::string& dtype, size_t item_bytes,
              bool is_written, std::byte*& base, int32_t& cols, RowKind& kind, size_t& first_copy,
              size_t& copy_bytes);
  static std::string type_name(const pybind11::object& value);

  const char* op_;
  pybind11::dict values_;
  const Program* program_;
  const Step* step_;
  size_t n_taken_ = 0;
};

template <class T>
Vector<T> Fields::vector(const char* name, const pybind11::object& value) {
  check(pybind11::isinstance<pybind11::buffer>(value), op_, ": ", name, " is a ", type_name(value),
        ", wanted a vector");
  const pybind11::buffer_info b = value.cast<pybind11::buffer>().request();
  check(b.ndim == 1 && b.item_type_is_equivalent_to<T>() && (b.size < 2 || b.strides[0] == sizeof(T)), op_,
        ": ", name, " must be a contiguous array of ", element_name<T>());
  return {static_cast<const T*>(b.ptr), b.size};
}

template <class T>
Matrix<T> Fields::matrix(const char* name) {
  pybind11::object value = take(name);
  check(pybind11::isinstance<pybind11::buffer>(value), op_, ": ", name, " is a ", type_name(value),
        ", wanted a matrix");
  const pybind11::buffer_info b = value.cast<pybind11::buffer>().request();
  check(b.ndim == 2 && b.item_type_is_equivalent_to<T>() && b.strides[1] == sizeof(T) &&
            (b.shape[0] < 2 || b.strides[0] == b.shape[1] * pybind11::ssize_t{sizeof(T)}),
        op_, ": ", name, " must be a contiguous matrix of ", element_name<T>());
  return {static_cast<const T*>(b.ptr), b.shape[0], b.shape[1]};
}

void fill(Fields& f, EmbedArgs& a);
void fill(Fields& f, GatherRowsArgs& a);
void fill(Fields& f, RmsNormArgs& a);
void fill(Fields& f, QuantizeRowsArgs& a);
void fill(Fields& f, QuantizeColsArgs& a);
void fill(Fields& f, LinearArgs& a);
void fill(Fields& f, GateUpArgs& a);
void fill(Fields& f, ActivateArgs& a);
void fill(Fields& f, SoftcapArgs& a);
void fill(Fields& f, LayerNormArgs& a);
void fill(Fields& f, AddArgs& a);
void fill(Fields& f, ScaleArgs& a);
void fill(Fields& f, AddPositionsArgs& a);
void fill(Fields& f, AddGatedArgs& a);
void fill(Fields& f, RouteArgs& a);
void fill(Fields& f, ExpertsGateUpArgs& a);
void fill(Fields& f, ExpertsDownArgs& a);
void fill(Fields& f, RopeTableArgs& a);
void fill(Fields& f, RopeAppendArgs& a);
void fill(Fields& f, AppendArgs& a);
void fill(Fields& f, HeadNormArgs& a);
void fill(Fields& f, QkNormArgs& a);
void fill(Fields& f, AttentionArgs& a);
void fill(Fields& f, SampleArgs& a);

template <class Args>
Args read_args(Fields& f) {
  Args args{};
  fill(f, args);
  f.finish();
  return args;
}

}  // namespace lanner
