// Rows of logits after a step: a copy that a request may change before it draws, and log probabilities.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <vector>

#include "bind/bind.h"
#include "bind/gil.h"
#include "core/check.h"
#include "core/memory.h"
#include "core/pool.h"
#include "cpu/backend.h"

namespace py = pybind11;

namespace lanner {

namespace {

const RowKernels& kernels() { return cpu_table().rows; }

// Contiguous elements of one type, from whatever has the buffer protocol: an array, a memoryview.
template <class T>
py::buffer_info items(const char* where, const char* name, const py::buffer& from, py::ssize_t ndim) {
  py::buffer_info info = from.request();
  bool packed = info.item_type_is_equivalent_to<T>() && info.ndim == ndim;
  py::ssize_t stride = sizeof(T);
  for (py::ssize_t d = info.ndim; packed && d-- > 0; stride *= info.shape[d])
    packed = info.strides[d] == stride || info.shape[d] <= 1;
  check(packed, where, ": ", name, " is ", info.ndim, "-dimensional of '", info.format, "', wanted ", ndim,
        "-dimensional and contiguous of '", py::format_descriptor<T>::format(), "'");
  return info;
}

// The sums of a row's chunks, merged.
ChunkSum sum_of(const float* x, int64_t n, std::vector<ChunkSum>& chunks) {
  chunks.resize(static_cast<size_t>((n + kSoftmaxChunk - 1) / kSoftmaxChunk));
  SoftmaxRow row{x, nullptr, nullptr, chunks.data(), n, true, false};
  kernels().sum_chunks(row, 0, static_cast<int64_t>(chunks.size()));
  return kernels().merge_chunks(row);
}

// As log_softmax has it, to the last bit.
struct LogProb {
  explicit LogProb(const ChunkSum& sum) : top(sum.max), log_sum(static_cast<float>(std::log(sum.sum))) {}
  float operator()(float x) const { return (x - top) - log_sum; }
  float top, log_sum;
};

// A row of its own, so that the step's stays as the model computed it.
class LogitsRow {
 public:
  explicit LogitsRow(int32_t n) : n_(n), x_(sizeof(float) * static_cast<size_t>(std::max(n, 1))) {
    check(n >= 1 && n <= kMaxVocab, "LogitsRow: n is ", n, ", wanted 1 to ", kMaxVocab);
  }

  float* x() const { return reinterpret_cast<float*>(x_.data()); }
  int32_t n() const { return n_; }

  void copy(const py::buffer& logits, int64_t row) {
    const py::buffer_info from = items<float>("LogitsRow.copy", "logits", logits, 2);
    check(from.shape[1] == n_, "LogitsRow.copy: logits has ", from.shape[1], " columns, wanted ", n_);
    check(row >= 0 && row < from.shape[0], "LogitsRow.copy: row is ", row, ", logits has ", from.shape[0]);
    const float* begin = static_cast<const float*>(from.ptr) + row * n_;
    ReleasedGil unlocked;
    std::copy(begin, begin + n_, x());
  }

  void adjust(const py::buffer& ids, const py::buffer& divisors, const py::buffer& shifts,
              const py::object& only) {
    constexpr const char* kOp = "LogitsRow.adjust";
    const py::buffer_info i = items<int32_t>(kOp, "ids", ids, 1);
    const py::buffer_info d = items<float>(kOp, "divisors", divisors, 1);
    const py::buffer_info s = items<float>(kOp, "shifts", shifts, 1);
    check(d.size == i.size && s.size == i.size, kOp, ": ids, divisors and shifts have ", i.size, ", ", d.size,
          " and ", s.size, " elements, wanted equally many");
    AdjustRow a{x(),
                n_,
                static_cast<const int32_t*>(i.ptr),
                static_cast<const float*>(d.ptr),
                static_cast<const float*>(s.ptr),
                i.size,
                nullptr,
                0};
    py::buffer_info o;
    if (!only.is_none()) {
      o = items<int32_t>(kOp, "only", py::reinterpret_borrow<py::buffer>(only), 1);
      a.only = static_cast<const int32_t*>(o.ptr), a.n_only = o.size;
      check(std::is_sorted(a.only, a.only + a.n_only), kOp, ": only is not ascending");
      check(a.n_only == 0 || a.only[0] >= 0, kOp, ": only has a negative id");
    }
    check(std::all_of(a.ids, a.ids + a.n_ids, [](int32_t id) { return id >= 0; }), kOp,
          ": ids has a negative id");
    kernels().adjust(a);
  }

  void log_softmax() {
    ReleasedGil unlocked;
    const ChunkSum sum = sum_of(x(), n_, chunks_);
    const SoftmaxRow row{x(), nullptr, x(), chunks_.data(), n_, true, false};
    kernels().write_chunks(row, sum, 0, static_cast<int64_t>(chunks_.size()));
  }

  py::tuple top(int64_t k) {
    k = std::clamp<int64_t>(k, 0, n_);
    std::vector<uint64_t> keys(static_cast<size_t>(top_k_room(n_, k)));
    std::vector<float> values(static_cast<size_t>(k));
    std::vector<int64_t> ids(static_cast<size_t>(k));
    if (k > 0) kernels().top_k(x(), n_, k, keys.data(), values.data(), ids.data());
    return py::make_tuple(ids, values);
  }

  int32_t sample(const std::array<float, kSamplingCols - 1>& settings, float uniform) {
    float row[kSamplingCols];
    std::copy(settings.begin(), settings.end(), row);
    row[kSamplingCols - 1] = uniform;
    if (!scratch_.data()) scratch_ = Memory(kScratchBytes);
    ReleasedGil unlocked;
    int32_t id = -1;
    const SampleArgs args{{x_.data(), n_, RowKind::kOutputs, 0, 0},
                          {reinterpret_cast<std::byte*>(&id), 1, RowKind::kOutputs, 0, 0}};
    Step step;
    step.n_outputs = 1, step.sampling = row;
    Worker worker;
    worker.scratch = scratch_.data();
    cpu_table().sample(&args, step, worker, 0, 1);
    return id;
  }

 private:
  const int32_t n_;
  Memory x_, scratch_;
  std::vector<ChunkSum> chunks_;
};

struct LogProbs {
  const float* logits;  // (n_rows, n)
  const int32_t* ids;   // (n_rows)
  int64_t n_rows, n, k;
  float* of_ids;     // (n_rows)
  int32_t* top_ids;  // (n_rows, k)
  float* top;        // (n_rows, k)
};

// Threads take a row at a time; what they need beside it grows with k alone.
void compute(const LogProbs& a, int n_threads) {
  std::atomic<int64_t> next{0};
  Pool::get().offer(n_threads, [&](int) {
    std::vector<ChunkSum> chunks;
    std::vector<uint64_t> keys(static_cast<size_t>(a.k ? top_k_room(a.n, a.k) : 0));
    std::vector<int64_t> largest(static_cast<size_t>(a.k));
    for (int64_t r; (r = next.fetch_add(1, std::memory_order_relaxed)) < a.n_rows;) {
      const float* x = a.logits + r * a.n;
      const LogProb log_prob(sum_of(x, a.n, chunks));
      a.of_ids[r] = log_prob(x[a.ids[r]]);
      if (!a.k) continue;
      float* top = a.top + r * a.k;
      kernels().top_k(x, a.n, a.k, keys.data(), top, largest.data());
      for (int64_t i = 0; i < a.k; ++i) top[i] = log_prob(top[i]);
      std::copy(largest.begin(), largest.end(), a.top_ids + r * a.k);
    }
  });
}

// Log probabilities of `ids`, of which row first_row + i of logits (R, V) gets ids[i]: (n,), and the k
// largest of each row with their ids: (n, k) each.
py::tuple log_probs(const py::buffer& logits, int64_t first_row, const py::buffer& ids, int64_t k,
                    int n_threads) {
  const py::buffer_info from = items<float>("log_probs", "logits", logits, 2);
  const py::buffer_info wanted = items<int32_t>("log_probs", "ids", ids, 1);
  const int64_t n = from.shape[1], n_rows = wanted.size;
  check(n >= 1 && first_row >= 0 && first_row + n_rows <= from.shape[0], "log_probs: rows ", first_row,
        " to ", first_row + n_rows, " of ", from.shape[0], " rows of ", n);
  const auto* id = static_cast<const int32_t*>(wanted.ptr);
  check(std::all_of(id, id + n_rows, [n](int32_t each) { return each >= 0 && each < n; }),
        "log_probs: ids are not all from 0 to ", n - 1);
  k = std::clamp<int64_t>(k, 0, n);
  py::array_t<float> of_ids(n_rows), top({n_rows, k});
  py::array_t<int32_t> top_ids({n_rows, k});
  const LogProbs a{static_cast<const float*>(from.ptr) + first_row * n,
                   id,
                   n_rows,
                   n,
                   k,
                   of_ids.mutable_data(),
                   top_ids.mutable_data(),
                   top.mutable_data()};
  const int64_t most = std::clamp<int64_t>(n_rows, 1, std::max(n_threads, 1));
  {
    ReleasedGil unlocked;
    compute(a, static_cast<int>(most));
  }
  return py::make_tuple(of_ids, top_ids, top);
}

}  // namespace

void bind_logits(py::module_& m) {
  py::class_<LogitsRow>(m, "LogitsRow")
      .def(py::init<int32_t>(), py::arg("n"))
      .def("copy", &LogitsRow::copy, py::arg("logits"), py::arg("row"))
      .def("adjust", &LogitsRow::adjust, py::arg("ids"), py::arg("divisors"), py::arg("shifts"),
           py::arg("only"))
      .def("log_softmax", &LogitsRow::log_softmax)
      .def("top", &LogitsRow::top, py::arg("k"))
      .def("sample", &LogitsRow::sample, py::arg("settings"), py::arg("uniform"))
      .def_property_readonly("array", [](py::object self) {
        auto& row = self.cast<LogitsRow&>();
        return py::array(py::dtype::of<float>(), {py::ssize_t{row.n()}}, row.x(), self);
      });
  m.def("log_probs", &log_probs, py::arg("logits"), py::arg("first_row"), py::arg("ids"), py::arg("k"),
        py::arg("n_threads"));
}

}  // namespace lanner
