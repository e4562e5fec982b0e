// lanner._core.Bpe: text in, token ids out; the pre-tokenizer's patterns are Python's.
#include "text/bpe.h"

#include <memory>
#include <optional>
#include <string>

#include "bind/bind.h"
#include "core/check.h"
#include "formats/gguf.h"

namespace py = pybind11;

namespace lanner {
namespace {

constexpr size_t kLongText =
    4096;  // bytes; shorter ones are encoded in less time than giving up the GIL may cost

// UTF-8 of a str, cached inside it; raises UnicodeEncodeError for a lone surrogate.
std::string_view utf8(PyObject* text) {
  py::ssize_t size;
  const char* data = PyUnicode_AsUTF8AndSize(text, &size);
  if (!data) throw py::error_already_set();
  return {data, static_cast<size_t>(size)};
}

// A str or bytes of a list; the view lives as long as the list.
std::string_view text_or_bytes(py::handle item) {
  if (PyBytes_Check(item.ptr()))
    return {PyBytes_AS_STRING(item.ptr()), static_cast<size_t>(PyBytes_GET_SIZE(item.ptr()))};
  if (!PyUnicode_Check(item.ptr())) throw py::type_error("Bpe: a token or merge is neither str nor bytes");
  return utf8(item.ptr());
}

std::vector<std::string_view> views(const py::list& items) {
  std::vector<std::string_view> out;
  out.reserve(items.size());
  for (const py::handle item : items) out.push_back(text_or_bytes(item));
  return out;
}

std::vector<std::string_view> views(const Array& array) {
  std::vector<std::string_view> out;
  out.reserve(array.count);
  for (const std::string_view text : array.strings()) out.push_back(text);
  return out;
}

std::unique_ptr<Bpe> from_file(const Gguf& file, const py::list& control_names, std::optional<int32_t> unk_id,
                               bool ignore_merges) {
  const std::vector<std::string_view> names = views(control_names);
  const py::gil_scoped_release released;
  const auto tokens = views(file.array("tokenizer.ggml.tokens", ValueType::String));
  const auto merges = views(file.array("tokenizer.ggml.merges", ValueType::String));
  std::vector<int32_t> types;
  if (file.find("tokenizer.ggml.token_type")) {
    const Array& stored = file.array("tokenizer.ggml.token_type", ValueType::I32);
    types.resize(stored.count);
    stored.copy_to(std::span(types));
  }
  return std::make_unique<Bpe>(
      BpeVocabulary{tokens, types, merges, names, unk_id.value_or(-1), ignore_merges});
}

std::unique_ptr<Bpe> from_lists(const py::list& tokens, const std::vector<int32_t>& token_types,
                                const py::list& merges, const py::list& control_names,
                                std::optional<int32_t> unk_id, bool ignore_merges) {
  return std::make_unique<Bpe>(BpeVocabulary{views(tokens), token_types, views(merges), views(control_names),
                                             unk_id.value_or(-1), ignore_merges});
}

py::list encode(const Bpe& bpe, const py::list& pieces) {
  std::string text;
  std::vector<size_t> piece_ends;
  piece_ends.reserve(pieces.size());
  for (const py::handle piece : pieces) {
    if (!PyUnicode_Check(piece.ptr())) throw py::type_error("encode: a piece is not a str");
    text += utf8(piece.ptr());
    piece_ends.push_back(text.size());
  }
  std::vector<int32_t> ids;
  {
    std::optional<py::gil_scoped_release> released;
    if (text.size() >= kLongText) released.emplace();
    ids.reserve(piece_ends.size());
    bpe.encode_pieces(text, piece_ends, ids);
  }
  py::list out(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) out[i] = py::int_(ids[i]);
  return out;
}

py::list split(const Bpe& bpe, const py::str& text, bool parse_special) {
  const std::string_view bytes = utf8(text.ptr());
  std::vector<Bpe::Segment> segments;
  {
    std::optional<py::gil_scoped_release> released;
    if (bytes.size() >= kLongText) released.emplace();
    segments = bpe.split_special(bytes, parse_special);
  }
  py::list out;
  for (const auto& [begin, end, id] : segments) {
    if (id >= 0)
      out.append(py::int_(id));
    else if (end - begin == bytes.size())
      out.append(text);
    else
      out.append(py::str(bytes.data() + begin, end - begin));
  }
  return out;
}

py::bytes decode(const Bpe& bpe, const py::iterable& ids, bool skip_special) {
  std::string out;
  for (const py::handle item : ids) {
    const py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(item.ptr()));
    if (!index) throw py::error_already_set();
    int overflow = 0;
    const int64_t id = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
    check(!overflow, "token id ", std::string(py::str(index)), " is out of range, vocab_size is ",
          bpe.vocab_size());
    const TokenType type = bpe.token_type(id);
    const bool shown =
        type == TokenType::kNormal || type == TokenType::kUserDefined || type == TokenType::kByte;
    if (shown || !skip_special) out += bpe.token_bytes(id);
  }
  return py::bytes(out);
}

py::bytes token_bytes(const Bpe& bpe, int64_t id) {
  const std::string_view bytes = bpe.token_bytes(id);
  return py::bytes(bytes.data(), bytes.size());
}

}  // namespace

void bind_bpe(py::module_& m) {
  py::class_<Bpe>(m, "Bpe",
                  R"(Byte-level BPE vocabulary: tokens in GPT-2's byte-to-unicode spelling, merges best first.

Read from `tokenizer.ggml.tokens`, `.token_type` and `.merges` of a GGUF file, or from lists of str or
bytes. token_types: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte; empty: all normal.
control_names: tokens that are control whatever their type says. unk_id: stands for a byte that has no
token. ignore_merges: a piece that is a token stays whole even if no merge makes it.
Raises ModelFileError naming the entry for a duplicate token, a type out of range, a merge whose halves
or result are not tokens. Every method may be called from many threads at once.)")
      .def(py::init(&from_file), py::arg("gguf"), py::arg("control_names") = py::list(),
           py::arg("unk_id") = py::none(), py::arg("ignore_merges") = false)
      .def(py::init(&from_lists), py::arg("tokens"), py::arg("token_types"), py::arg("merges"),
           py::arg("control_names") = py::list(), py::arg("unk_id") = py::none(),
           py::arg("ignore_merges") = false)
      .def_property_readonly("vocab_size", &Bpe::vocab_size)
      .def("encode", &encode, py::arg("pieces"),
           R"(Token ids of pre-tokenized pieces of text; no merge crosses the end of a piece.
Raises ValueError for a byte that has no token where there is no unknown token either.)")
      .def("split", &split, py::arg("text"), py::arg("parse_special"),
           R"(Text cut at its special tokens: str for text, int for a token. User-defined tokens are always
cut out, control and unknown ones if parse_special; the leftmost first, the longest that starts there.)")
      .def("decode", &decode, py::arg("ids"), py::arg("skip_special"),
           R"(Bytes of the tokens; skip_special leaves out control, unknown and unused ones.
Raises ValueError naming the id and vocab_size for an id out of range.)")
      .def("token_bytes", &token_bytes, py::arg("id"),
           "Bytes that a token stands for. Raises ValueError for an id out of range.")
      .def(
          "token_type", [](const Bpe& bpe, int64_t id) { return static_cast<int32_t>(bpe.token_type(id)); },
          py::arg("id"), "1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.")
      .def(
          "find",
          [](const Bpe& bpe, std::string_view text) {
            const int32_t id = bpe.find_token(text);
            return id < 0 ? std::nullopt : std::optional(id);
          },
          py::arg("text"), "Id of the token that the file writes as `text`, or None.");
}

}  // namespace lanner
