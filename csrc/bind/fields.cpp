#include "bind/fields.h"

#include <algorithm>

namespace py = pybind11;

namespace lanner {

namespace {

// Whether the largest step and every worker's copy stay inside the arena.
bool fits(const Slot& slot, size_t item_bytes, const Program& p) {
  const StepLimits& most = p.limits();
  const size_t rows = slot.kind == RowKind::kTokens ? most.max_tokens : most.max_outputs;
  if (slot.cols < 0 || slot.offset > p.arena_bytes() || slot.offset % item_bytes != 0) return false;
  const size_t room = p.arena_bytes() - slot.offset, row_bytes = slot.cols * item_bytes;
  if (row_bytes > room / rows) return false;
  if (slot.first_copy == 0) return true;
  const size_t copies = static_cast<size_t>(p.n_threads() - 1);
  return slot.first_copy >= row_bytes * rows && slot.first_copy <= room &&
         row_bytes * std::min<size_t>(kReplicatedRows, rows) <= slot.copy_bytes &&
         (copies == 0 || slot.copy_bytes <= (room - slot.first_copy) / copies);
}

}  // namespace

std::string Fields::type_name(const py::object& value) {
  return py::str(py::type::of(value).attr("__name__")).cast<std::string>();
}

py::object Fields::find(const char* name) {
  if (!values_.contains(name)) return py::none();
  ++n_taken_;
  return values_[name];
}

py::object Fields::take(const char* name) {
  py::object value = find(name);
  if (value.is_none()) throw py::type_error(cat(op_, ": ", name, " is missing"));
  return value;
}

void Fields::finish() const {
  if (n_taken_ == values_.size()) return;
  std::string names;
  for (auto item : values_) names += (names.empty() ? "" : ", ") + py::str(item.first).cast<std::string>();
  throw py::type_error(cat(op_, ": unexpected argument among ", names));
}

void Fields::locate(const char* name, const py::object& value, const std::string& dtype, size_t item_bytes,
                    bool is_written, std::byte*& base, int32_t& cols, RowKind& kind, size_t& first_copy,
                    size_t& copy_bytes) {
  if (py::isinstance<Slot>(value)) {
    const auto& slot = value.cast<const Slot&>();
    check(program_ != nullptr, op_, ": ", name, " is a slot of a program, wanted an array");
    check(slot.dtype == dtype, op_, ": ", name, " is ", slot.dtype, ", wanted ", dtype);
    check(fits(slot, item_bytes, *program_), op_, ": ", name, " is a slot that does not lie in the arena of ",
          program_->arena_bytes(), " bytes");
    base = program_->arena() + slot.offset, cols = slot.cols, kind = slot.kind;
    first_copy = slot.first_copy, copy_bytes = slot.copy_bytes;
    return;
  }
  check(program_ == nullptr && py::isinstance<Buffer>(value), op_, ": ", name, " is a ", type_name(value),
        ", wanted a ", program_ ? "Slot" : "Buffer");
  auto& buffer = value.cast<Buffer&>();
  py::array& a = buffer.array;
  const std::string given = py::str(a.dtype()).cast<std::string>();
  check(given == dtype && a.ndim() == 2 && (a.flags() & py::array::c_style), op_, ": ", name, " is ",
        a.ndim(), "-dimensional ", given, ", wanted a contiguous matrix of ", dtype);
  const int32_t rows = step_->rows(buffer.kind);
  check(a.shape(0) >= rows, op_, ": ", name, " has ", a.shape(0), " rows, the step has ", rows);
  check(a.shape(1) * static_cast<py::ssize_t>(item_bytes) < (py::ssize_t{1} << 31), op_, ": ", name,
        " has too many columns");
  check(!is_written || a.writeable(), op_, ": ", name, " is read-only, wanted an array to write to");
  base = static_cast<std::byte*>(const_cast<void*>(a.data()));
  cols = static_cast<int32_t>(a.shape(1));
  kind = buffer.kind;
}

void fill(Fields& f, EmbedArgs& a) { a = {f.weight("weight"), f.written<float>("out")}; }
void fill(Fields& f, GatherRowsArgs& a) { a = {f.rows<float>("x"), f.written<float>("out")}; }
void fill(Fields& f, RmsNormArgs& a) {
  a = {f.rows<float>("x"), f.vector<float>("weight"), f.written<float>("out"), f.number<float>("eps")};
}
void fill(Fields& f, QuantizeRowsArgs& a) {
  a = {f.rows<float>("x"), f.optional_rows<uint8_t>("int8", true), f.optional_rows<uint8_t>("int16", true),
       f.number<int32_t>("parts", 1)};
}
void fill(Fields& f, QuantizeColsArgs& a) { fill(f, static_cast<QuantizeRowsArgs&>(a)); }
void fill(Fields& f, LinearArgs& a) {
  a = {f.weight("weight"),
       f.linear_input(),
       f.written<float>("out"),
       f.number<bool>("add", false),
       f.number<int32_t>("unit_rows", kPanelRows),
       f.optional_vector<float>("bias")};
}
void fill(Fields& f, GateUpArgs& a) {
  a = {f.weight("weight"), f.linear_input(), f.written<float>("out"),
       f.number<int32_t>("unit_rows", kPanelRows), f.activation("function", "silu")};
}
void fill(Fields& f, RopeTableArgs& a) {
  a = {f.vector<double>("inv_freq"), f.written<float>("out"), f.number<double>("factor", 1.0)};
}
void fill(Fields& f, RopeAppendArgs& a) {
  a = {f.written<float>("qkv"), f.rows<float>("table"), f.cache("cache"), f.number<int32_t>("layer"),
       f.number<int32_t>("n_heads")};
}
void fill(Fields& f, AppendArgs& a) {
  a = {f.rows<float>("kv"), f.cache("cache"), f.number<int32_t>("layer"), f.number<int32_t>("n_heads"),
       f.number<bool>("cross", false)};
}
void fill(Fields& f, HeadNormArgs& a) {
  a = {f.written<float>("qkv"), f.vector<float>("q_weight"), f.vector<float>("k_weight"),
       f.number<int32_t>("n_heads"), f.number<float>("eps")};
}
void fill(Fields& f, QkNormArgs& a) {
  a = {f.written<float>("qkv"), f.vector<float>("q_weight"), f.vector<float>("k_weight"),
       f.number<float>("eps")};
}
void fill(Fields& f, AttentionArgs& a) {
  a = {f.rows<float>("q"),
       f.written<float>("out"),
       f.cache("cache"),
       f.number<int32_t>("layer"),
       f.number<int32_t>("n_heads"),
       f.number<float>("scale"),
       f.number<int32_t>("window", 0),
       f.number<float>("softcap", 0.0f),
       f.number<bool>("causal", true),
       f.number<bool>("cross", false),
       f.optional_vector<float>("bias")};
}
void fill(Fields& f, SampleArgs& a) { a = {f.rows<float>("logits"), f.written<int32_t>("out")}; }

}  // namespace lanner
