// lanner._core.Spm: text in, token ids out, by the scores of a SentencePiece vocabulary.
#include "text/spm.h"

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

struct Options {
  std::vector<std::string_view> control_names;
  int32_t unk_id;
  bool add_space_prefix, remove_extra_whitespaces;
  std::optional<std::vector<std::string_view>> spaces_stay_after;
};

std::unique_ptr<Spm> open(const std::vector<std::string_view>& tokens, const std::vector<float>& scores,
                          const std::vector<int32_t>& types, const Options& options,
                          std::shared_ptr<const void> owner) {
  std::optional<std::span<const std::string_view>> stay;
  if (options.spaces_stay_after) stay = *options.spaces_stay_after;
  return std::make_unique<Spm>(SpmVocabulary{tokens, scores, types, options.control_names, options.unk_id,
                                             options.add_space_prefix, options.remove_extra_whitespaces, stay,
                                             std::move(owner)});
}

std::optional<std::vector<std::string_view>> optional_views(const std::optional<py::list>& items) {
  return items ? std::optional(views(*items)) : std::nullopt;
}

std::unique_ptr<Spm> from_file(std::shared_ptr<Gguf> file, const py::list& control_names,
                               std::optional<int32_t> unk_id, bool add_space_prefix,
                               bool remove_extra_whitespaces,
                               const std::optional<py::list>& spaces_stay_after) {
  const Options options{views(control_names), unk_id.value_or(-1), add_space_prefix, remove_extra_whitespaces,
                        optional_views(spaces_stay_after)};
  ReleasedGil released;
  const auto tokens = views(file->array("tokenizer.ggml.tokens", ValueType::String));
  const Array& stored = file->array("tokenizer.ggml.scores", ValueType::F32);
  std::vector<float> scores(stored.count);
  stored.copy_to(std::span(scores));
  const std::vector<int32_t> types = token_types(*file);
  return open(tokens, scores, types, options, std::move(file));
}

std::unique_ptr<Spm> from_lists(const py::list& tokens, const std::vector<float>& scores,
                                const std::vector<int32_t>& types, const py::list& control_names,
                                std::optional<int32_t> unk_id, bool add_space_prefix,
                                bool remove_extra_whitespaces,
                                const std::optional<py::list>& spaces_stay_after) {
  auto texts = std::make_shared<std::vector<std::string>>();
  texts->reserve(tokens.size());
  for (const std::string_view token : views(tokens)) texts->emplace_back(token);
  const std::vector<std::string_view> kept(texts->begin(), texts->end());
  return open(kept, scores, types,
              {views(control_names), unk_id.value_or(-1), add_space_prefix, remove_extra_whitespaces,
               optional_views(spaces_stay_after)},
              texts);
}

py::list encode(const Spm& spm, const py::str& text, bool parse_special) {
  const std::string_view bytes = utf8(text.ptr());
  std::vector<int32_t> ids;
  {
    ReleasedGil released(bytes.size() >= kLongText);
    spm.encode(bytes, parse_special, ids);
  }
  return id_list(ids);
}

py::bytes decode(const Spm& spm, const py::iterable& ids, bool skip_special, bool at_start) {
  std::string out;
  bool drops_space = at_start && spm.add_space_prefix();
  for (const py::handle item : ids) {
    const int64_t id = token_id(item, spm.vocab_size());
    const TokenType type = spm.token_type(id);
    if (skip_special && !is_text(type)) continue;
    const size_t begin = out.size();
    spm.append_bytes(id, out);
    if (begin == out.size()) continue;
    if (drops_space && type == TokenType::kNormal && out[begin] == ' ') out.erase(begin, 1);
    drops_space = false;
  }
  return py::bytes(out);
}

}  // namespace

void bind_spm(py::module_& m) {
  py::class_<Spm>(m, "Spm",
                  R"(SentencePiece BPE vocabulary: tokens with U+2581 for a space, a score for each.

Read from `tokenizer.ggml.tokens`, `.scores` and `.token_type` of a GGUF file, which stays mapped, or from
lists. token_types: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte; empty: normal, and byte
where a token is written '<0x0A>'. control_names: tokens that are control whatever their type says. unk_id:
stands for a run of characters that have no tokens. add_space_prefix: a space is added before a text and after
each special token. remove_extra_whitespaces: spaces at the ends go, and all but one of a run.
spaces_stay_after: whitespace after a special token that has none of these names belongs to the token.
Raises ModelFileError naming the entry for a duplicate token, a type out of range, a score that is not a
number. Every method may be called from many threads at once.)")
      .def(py::init(&from_file), py::arg("gguf"), py::arg("control_names") = py::list(),
           py::arg("unk_id") = py::none(), py::arg("add_space_prefix") = true,
           py::arg("remove_extra_whitespaces") = false, py::arg("spaces_stay_after") = py::none())
      .def(py::init(&from_lists), py::arg("tokens"), py::arg("scores"), py::arg("token_types"),
           py::arg("control_names") = py::list(), py::arg("unk_id") = py::none(),
           py::arg("add_space_prefix") = true, py::arg("remove_extra_whitespaces") = false,
           py::arg("spaces_stay_after") = py::none())
      .def_property_readonly("vocab_size", &Spm::vocab_size)
      .def(
          "encode", &encode, py::arg("text"), py::arg("parse_special"),
          R"(Token ids of a text. User-defined tokens are always found where they are spelled out, control and
unknown ones if parse_special; the leftmost first, the longest that starts there.
Raises ValueError for a character that has neither tokens nor an unknown token.)")
      .def(
          "decode", &decode, py::arg("ids"), py::arg("skip_special"), py::arg("at_start") = false,
          R"(Bytes of the tokens; skip_special leaves out control, unknown and unused ones. at_start: a normal
token at the beginning loses the space in front if `encode` adds one there.
Raises ValueError naming the id and vocab_size for an id out of range.)")
      .def(
          "token_bytes",
          [](const Spm& spm, int64_t id) {
            std::string out;
            spm.append_bytes(id, out);
            return py::bytes(out);
          },
          py::arg("id"), "Bytes that a token stands for. Raises ValueError for an id out of range.")
      .def(
          "token_type", [](const Spm& spm, int64_t id) { return static_cast<int32_t>(spm.token_type(id)); },
          py::arg("id"), "1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.")
      .def(
          "find",
          [](const Spm& spm, std::string_view text) {
            const int32_t id = spm.find_token(text);
            return id < 0 ? std::nullopt : std::optional(id);
          },
          py::arg("text"), "Id of the token that the file writes as `text`, or None.");
}

}  // namespace lanner
