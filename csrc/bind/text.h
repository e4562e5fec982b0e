// What the bindings of the tokenizers share.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "bind/bind.h"
#include "core/check.h"
#include "formats/gguf.h"

namespace lanner {

constexpr size_t kLongText =
    4096;  // bytes; shorter ones are encoded in less time than giving up the GIL may cost

// UTF-8 of a str, cached inside it; raises UnicodeEncodeError for a lone surrogate.
inline std::string_view utf8(PyObject* text) {
  Py_ssize_t size;
  const char* data = PyUnicode_AsUTF8AndSize(text, &size);
  if (!data) throw pybind11::error_already_set();
  return {data, static_cast<size_t>(size)};
}

// A str or bytes of a list; the view lives as long as the list.
inline std::string_view text_or_bytes(pybind11::handle item) {
  if (PyBytes_Check(item.ptr()))
    return {PyBytes_AS_STRING(item.ptr()), static_cast<size_t>(PyBytes_GET_SIZE(item.ptr()))};
  if (!PyUnicode_Check(item.ptr()))
    throw pybind11::type_error("a token or merge of a vocabulary is neither str nor bytes");
  return utf8(item.ptr());
}

inline std::vector<std::string_view> views(const pybind11::list& items) {
  std::vector<std::string_view> out;
  out.reserve(items.size());
  for (const pybind11::handle item : items) out.push_back(text_or_bytes(item));
  return out;
}

inline std::vector<std::string_view> views(const Array& array) {
  std::vector<std::string_view> out;
  out.reserve(array.count);
  for (const std::string_view text : array.strings()) out.push_back(text);
  return out;
}

// Types of the tokens, none where the file has none.
inline std::vector<int32_t> token_types(const Gguf& file) {
  std::vector<int32_t> types;
  if (file.find("tokenizer.ggml.token_type")) {
    const Array& stored = file.array("tokenizer.ggml.token_type", ValueType::I32);
    types.resize(stored.count);
    stored.copy_to(std::span(types));
  }
  return types;
}

inline pybind11::list id_list(const std::vector<int32_t>& ids) {
  pybind11::list out(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) out[i] = pybind11::int_(ids[i]);
  return out;
}

// An id that a caller gave; whether it is in range is the vocabulary's to say.
inline int64_t token_id(pybind11::handle item, int32_t vocab_size) {
  const auto index = pybind11::reinterpret_steal<pybind11::object>(PyNumber_Index(item.ptr()));
  if (!index) throw pybind11::error_already_set();
  int overflow = 0;
  const int64_t id = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  check(!overflow, "token id ", std::string(pybind11::str(index)), " is out of range, vocab_size is ",
        vocab_size);
  return id;
}

}  // namespace lanner
