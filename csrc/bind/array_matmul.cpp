// Matmul on arrays: the kernels of `linear` (csrc/ops/linear.h) over a weight that is packed, or that is
// packed a few columns at a time while it is used.
#include <cstring>
#include <optional>
#include <vector>

#include "bind/array.h"
#include "bind/gil.h"
#include "core/pool.h"
#include "cpu/backend.h"
#include "ops/linear.h"

namespace py = pybind11;

namespace lanner {

namespace {

using FloatMatrix = py::array_t<float, py::array::c_style>;
using FloatVector = FloatMatrix;

// Panels that a thread takes at a time. At least four: their 64 outputs of a row are four cache lines. At
// most sixteen: so many share a copied block of the input (cpu/float_block.h).
constexpr int kFewestPanels = 4, kMostPanels = 16;

// Columns of an array weight are packed for a unit of panels; longer ones than this leave a smaller unit.
constexpr size_t kPackedBytes = size_t{4} << 20;

// Packed columns up to this size stay with the thread for its next call; those of a K of millions are freed.
constexpr size_t kKeptBytes = size_t{64} << 20;

// Scratch of the threads that compute, kept from call to call.
std::byte* thread_scratch() {
  thread_local Memory scratch(kScratchBytes);
  return scratch.data();
}

Rows<float> rows(float* base, int64_t cols) {
  return {reinterpret_cast<std::byte*>(base), static_cast<int32_t>(cols), RowKind::kTokens, 0, 0};
}

Rows<uint8_t> rows(std::vector<uint8_t>& codes, int64_t cols) {
  return {reinterpret_cast<std::byte*>(codes.data()), static_cast<int32_t>(cols), RowKind::kTokens, 0, 0};
}

struct Product {
  float* x;
  float* out;
  const float* bias;  // (n) or null
  int64_t n_rows, k, n;
};

// Kernels add to what out holds.
void begin_with_bias(const Product& p) {
  for (int64_t row = 0; p.bias && row < p.n_rows; ++row)
    std::memcpy(p.out + row * p.n, p.bias, sizeof(float) * static_cast<size_t>(p.n));
}

Step step_of(const Product& p) {
  Step step;
  step.n_tokens = static_cast<int32_t>(p.n_rows);
  return step;
}

// Calls body(worker, first panel, end) for ranges of panels, one for each thread or more where there are
// enough.
template <class Body>
void share_panels(const Product& p, int n_panels, int most, Body body) {
  const int n_threads = array_threads(p.n_rows * p.k * p.n);
  const int unit =
      std::min(most, std::clamp((n_panels + n_threads - 1) / n_threads, kFewestPanels, kMostPanels));
  Pool::get().for_each(n_threads, (n_panels + unit - 1) / unit, [&](int64_t i) {
    Worker worker;
    worker.scratch = thread_scratch();
    const int first = static_cast<int>(i) * unit;
    body(worker, first, std::min(first + unit, n_panels));
  });
}

// --- a packed weight -----------------------------------------------------------------------------------
bool reads(const PackedWeight& w, InputKind kind) {
  for (const Segment& s : w.segments)
    if (input_of(s.format) == kind) return true;
  return false;
}

void multiply_packed(const Product& p, const PackedWeight& w) {
  begin_with_bias(p);
  LinearArgs a{&w, {}, rows(p.out, p.n), p.bias != nullptr, kPanelRows};
  QuantizeRowsArgs q{rows(p.x, p.k), {}, {}};
  std::vector<uint8_t> int8, int16;
  const Step step = step_of(p);
  if (reads(w, InputKind::kFloat)) a.in.x = q.x;
  if (reads(w, InputKind::kInt8)) {
    int8.resize(p.n_rows * int8_row_bytes(p.k));
    a.in.int8 = q.int8 = rows(int8, int8_row_bytes(p.k));
  }
  if (reads(w, InputKind::kInt16)) {
    int16.resize(p.n_rows * int16_row_bytes(p.k));
    a.in.int16 = q.int16 = rows(int16, int16_row_bytes(p.k));
  }
  if (q.int8 || q.int16)
    Pool::get().for_each(array_threads(p.n_rows * p.k), p.n_rows, [&](int64_t row) {
      cpu_table().quantize_rows(&q, step, Worker{}, static_cast<int>(row), static_cast<int>(row) + 1);
    });
  share_panels(p, w.n_panels, kMostPanels, [&](const Worker& worker, int first, int end) {
    cpu_table().linear(&a, step, worker, first, end);
  });
}

// --- an array (K, N) -----------------------------------------------------------------------------------
// Columns 16 * first to 16 * end - 1 as panels of one record per k, row by row, as memory has them; columns
// past the end are zero.
template <int item>
void pack_columns(const std::byte* w, int64_t k, int64_t n, int first, int end, std::byte* to,
                  int64_t panel_bytes) {
  constexpr int64_t record = kPanelRows * item;
  const int64_t left = n - int64_t{end - 1} * kPanelRows;
  const size_t last_bytes = static_cast<size_t>(std::min<int64_t>(kPanelRows, left)) * item;
  w += first * record;
  for (int64_t i = 0; i < k; ++i, w += n * item, to += record) {
    const std::byte* from = w;
    std::byte* at = to;
    for (int p = first; p < end - 1; ++p, from += record, at += panel_bytes) std::memcpy(at, from, record);
    std::memcpy(at, from, last_bytes);
    std::memset(at + last_bytes, 0, record - last_bytes);
  }
}

void multiply_array(const Product& p, const std::byte* data, Format format) {
  begin_with_bias(p);
  const int item = static_cast<int>(info(format).bytes);
  // A line more than the values: panels a power of two apart would fight for the same lines of L1.
  const size_t panel_bytes = static_cast<size_t>(p.k) * kPanelRows * item + 64;
  const int n_panels = static_cast<int>((p.n + kPanelRows - 1) / kPanelRows);
  const Step step = step_of(p);
  const int most = static_cast<int>(std::max<size_t>(kPackedBytes / panel_bytes, 1));
  share_panels(p, n_panels, most, [&](const Worker& worker, int first, int end) {
    thread_local std::vector<std::byte> packed;
    packed.resize(panel_bytes * static_cast<size_t>(end - first));
    (item == 4 ? pack_columns<4> : pack_columns<2>)(data, p.k, p.n, first, end, packed.data(),
                                                    static_cast<int64_t>(panel_bytes));
    const int64_t column = int64_t{first} * kPanelRows;
    PackedWeight w;
    w.n = static_cast<int32_t>(std::min<int64_t>(int64_t{end - first} * kPanelRows, p.n - column));
    w.k = static_cast<int32_t>(p.k);
    w.n_panels = end - first;
    w.segments.push_back({format, w.n, 0, 0, w.n_panels, panel_bytes, packed.data()});
    // Rows of out are n apart; this thread writes its own columns of them.
    const LinearArgs a{
        &w, {rows(p.x, p.k), {}, {}}, rows(p.out + column, p.n), p.bias != nullptr, kPanelRows};
    cpu_table().linear(&a, step, worker, 0, w.n_panels);
    if (packed.size() > kKeptBytes) std::vector<std::byte>().swap(packed);
  });
}

// --- doors ---------------------------------------------------------------------------------------------
Product product(const FloatMatrix& x, const std::optional<FloatVector>& bias, FloatMatrix& out) {
  return {const_cast<float*>(x.data()),
          out.mutable_data(),
          bias ? bias->data() : nullptr,
          x.shape(0),
          x.shape(1),
          out.shape(1)};
}

void matmul_packed(const FloatMatrix& x, const std::shared_ptr<PackedWeight>& w,
                   const std::optional<FloatVector>& bias, FloatMatrix out) {
  const Product p = product(x, bias, out);
  ReleasedGil unlocked;
  multiply_packed(p, *w);
}

void matmul_array(const FloatMatrix& x, const py::array& w, const std::string& format,
                  const std::optional<FloatVector>& bias, FloatMatrix out) {
  const Product p = product(x, bias, out);
  const auto* data = static_cast<const std::byte*>(w.data());
  const Format f = format == "f32" ? Format::F32 : format == "f16" ? Format::F16 : Format::BF16;
  ReleasedGil unlocked;
  multiply_array(p, data, f);
}

}  // namespace

void bind_array_matmul(py::module_& m) {
  const auto x = py::arg("x").noconvert(), bias = py::arg("bias").noconvert(),
             out = py::arg("out").noconvert();
  m.def("matmul_packed", &matmul_packed, x, py::arg("w"), bias, out);
  m.def("matmul_array", &matmul_array, x, py::arg("w"), py::arg("format"), bias, out);
}

}  // namespace lanner
