// lanner._core.Bpe: text in, token ids out; the pre-tokenizer's patterns are Python's.
#include "text/bpe.h"

#include <memory>
#include <optional>
#include <string>

#include "bind/bind.h"
#include "bind/gil.h"
#include "bind/text.h"
#include "formats/gguf.h"

namespace py = pybind11;

namespace lanner {
namespace {

std::unique_ptr<Bpe> from_file(const Gguf& file, const py::list& control_names, std::optional<int32_t> unk_id,
                               bool ignore_merges) {
  const std::vector<std::string_view> names = views(control_names);
  ReleasedGil released;
  const auto tokens = views(file.array("tokenizer.ggml.tokens", ValueType::String));
  const auto merges = views(file.array("tokenizer.ggml.merges", ValueType::String));
  const std::vector<int32_t> types = token_types(file);
  return std::make_unique<Bpe>(
      BpeVocabulary{tokens, types, merges, names, unk_id.value_or(-1), ignore_merges});
}

std::unique_ptr<Bpe> from_lists(const py::list& tokens, const std::vector<int32_t>& types,
                                const py::list& merges, const py::list& control_names,
                                std::optional<int32_t> unk_id, bool ignore_merges) {
  return std::make_unique<Bpe>(BpeVocabulary{views(tokens), types, views(merges), views(control_names),
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
    ReleasedGil released(text.size() >= kLongText);
    ids.reserve(piece_ends.size());
    bpe.encode_pieces(text, piece_ends, ids);
  }
  return id_list(ids);
}

py::list split(const Bpe& bpe, const py::str& text, bool parse_special) {
  const std::string_view bytes = utf8(text.ptr());
  std::vector<Bpe::Segment> segments;
  {
    ReleasedGil released(bytes.size() >= kLongText);
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
    const int64_t id = token_id(item, bpe.vocab_size());
    if (!skip_special || is_text(bpe.token_type(id))) out += bpe.token_bytes(id);
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
