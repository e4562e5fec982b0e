// softmax and its kin, norms, RoPE, activations and top-k on whole arrays. lanner.ops checks shapes; here
// rows are dealt to threads.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <optional>

#include "bind/array.h"
#include "bind/gil.h"
#include "core/check.h"
#include "core/pool.h"
#include "cpu/backend.h"

namespace py = pybind11;

namespace lanner {

namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Doubles = py::array_t<double, py::array::c_style>;
using Longs = py::array_t<int64_t, py::array::c_style>;

// Elements that a thread takes at a time: 64 KB, long beside the microsecond that taking costs.
constexpr int64_t kItemElements = 16384;

// A row of 256 KB and its exponentials stay in a level-2 cache of 512 KB or more: they are kept between the
// two passes. Longer ones are computed twice, which is cheaper than memory.
constexpr int64_t kKeptElements = 65536;

// Outputs from this size are written past the caches: nothing of them would still be there when the caller
// looks, and an ordinary store reads each line before it writes it.
constexpr int64_t kStreamBytes = int64_t{32} << 20;

const RowKernels& kernels() { return cpu_table().rows; }

void require(bool ok) { check(ok, "lanner._core.array: shapes that lanner.ops would have refused"); }

struct Shape {
  int64_t rows, n;
};
Shape shape_of(const Floats& x) {
  require(x.ndim() == 2);
  return {x.shape(0), x.shape(1)};
}

// Calls task(worker, begin, end) for ranges of rows, each on one thread.
template <class Task>
void split(int n_threads, Shape s, Task task) {
  const int64_t per_item = std::max<int64_t>(1, kItemElements / std::max<int64_t>(s.n, 1));
  const int64_t n_items = (s.rows + per_item - 1) / per_item;
  n_threads = static_cast<int>(std::min<int64_t>(n_threads, n_items));
  std::atomic<int64_t> next{0};
  Pool::get().offer(n_threads, [&](int worker) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n_items;)
      task(worker, i * per_item, std::min(s.rows, (i + 1) * per_item));
  });
}

int64_t n_chunks(int64_t n) { return (n + kSoftmaxChunk - 1) / kSoftmaxChunk; }

// An element is read and written: 8 bytes.
int threads_for(Shape s) { return array_threads(s.rows * s.n * 8); }

// What each thread keeps of its row: the sums of the chunks, and the exponentials of rows that are streamed.
struct SoftmaxScratch {
  SoftmaxScratch(int n_threads, int64_t n, bool keeps) : n_sums(n_chunks(n)), n_kept(keeps ? n + 32 : 0) {
    sums.reset(new ChunkSum[static_cast<size_t>(n_threads * n_sums)]);
    if (keeps) kept.reset(new float[static_cast<size_t>(n_threads * n_kept)]);
  }
  // As far past a cache line as out is, so that both are aligned at once.
  float* kept_for(int worker, const float* out) const {
    if (!kept) return nullptr;
    float* base = kept.get() + worker * n_kept;
    const auto phase = [](const float* p) { return reinterpret_cast<uintptr_t>(p) / sizeof(float) % 16; };
    return base + (phase(out) + 16 - phase(base)) % 16;
  }
  int64_t n_sums, n_kept;
  std::unique_ptr<ChunkSum[]> sums;
  std::unique_ptr<float[]> kept;
};

// Many rows: each thread takes whole ones.
void softmax_by_rows(const SoftmaxRow& first, Shape s, int n_threads) {
  const bool keeps = !first.logarithm && s.n <= kKeptElements;
  const SoftmaxScratch scratch(n_threads, s.n, keeps && first.stream);
  split(n_threads, s, [&](int worker, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      SoftmaxRow row = first;
      row.x += r * s.n, row.out += r * s.n;
      row.sums = scratch.sums.get() + worker * scratch.n_sums;
      row.kept = !keeps ? nullptr : first.stream ? scratch.kept_for(worker, row.out) : row.out;
      kernels().sum_chunks(row, 0, scratch.n_sums);
      kernels().write_chunks(row, kernels().merge_chunks(row), 0, scratch.n_sums);
    }
  });
}

// A stretch of work that threads share, an item after the other. A thread that comes late finds nothing left
// and holds nobody up.
class Phase {
 public:
  template <class Item>
  void work(int64_t n_items, Item item) {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < n_items;) {
      item(i);
      if (n_done_.fetch_add(1, std::memory_order_acq_rel) == n_items - 1) done_.raise();
    }
    done_.wait([&] { return n_done_.load(std::memory_order_acquire) >= n_items; }, kSpin_s);
  }

 private:
  static constexpr double kSpin_s = 50e-6;  // longer than an item takes
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<int64_t> n_done_{0};
  Signal done_;
};

// Few long rows: the threads share the chunks of each, four at a time.
void softmax_by_chunks(const SoftmaxRow& first, Shape s, int n_threads) {
  constexpr int64_t kPerItem = kItemElements / kSoftmaxChunk;
  const bool keeps = !first.logarithm && !first.stream && s.n <= kKeptElements * n_threads;
  const SoftmaxScratch scratch(1, s.n, false);
  const int64_t n = scratch.n_sums, n_items = (n + kPerItem - 1) / kPerItem;
  const std::unique_ptr<Phase[]> phases(new Phase[static_cast<size_t>(3 * s.rows)]);
  ChunkSum merged;
  Pool::get().offer(n_threads, [&](int) {
    for (int64_t r = 0; r < s.rows; ++r) {
      SoftmaxRow row = first;
      row.x += r * s.n, row.out += r * s.n, row.sums = scratch.sums.get();
      row.kept = keeps ? row.out : nullptr;
      const auto end_of = [n](int64_t item) { return std::min(n, (item + 1) * kPerItem); };
      Phase* phase = &phases[3 * r];
      phase[0].work(n_items, [&](int64_t i) { kernels().sum_chunks(row, i * kPerItem, end_of(i)); });
      phase[1].work(1, [&](int64_t) { merged = kernels().merge_chunks(row); });
      phase[2].work(n_items,
                    [&](int64_t i) { kernels().write_chunks(row, merged, i * kPerItem, end_of(i)); });
    }
  });
}

bool worth_sharing(Shape s, int n_threads) {
  return n_threads > 1 && s.rows < 4 * n_threads && n_chunks(s.n) >= 4 * n_threads;
}

void softmax(const Floats& x, Floats& out, bool logarithm) {
  const Shape s = shape_of(x);
  require(out.ndim() == 2 && out.shape(0) == s.rows && out.shape(1) == s.n);
  SoftmaxRow row{
      x.data(), nullptr, out.mutable_data(), nullptr, s.n, logarithm, s.rows * s.n * 4 >= kStreamBytes};
  ReleasedGil unlocked;
  const int n_threads = threads_for(s);
  worth_sharing(s, n_threads) ? softmax_by_chunks(row, s, n_threads) : softmax_by_rows(row, s, n_threads);
}

void logsumexp(const Floats& x, Floats& out) {
  const Shape s = shape_of(x);
  require(out.size() == s.rows);
  const SoftmaxRow first{x.data(), nullptr, nullptr, nullptr, s.n, true, false};
  float* to = out.mutable_data();
  ReleasedGil unlocked;
  const int n_threads = threads_for(s);
  const SoftmaxScratch scratch(n_threads, s.n, false);
  if (worth_sharing(s, n_threads)) {
    for (int64_t r = 0; r < s.rows; ++r) {
      SoftmaxRow row = first;
      row.x += r * s.n, row.sums = scratch.sums.get();
      split(n_threads, {scratch.n_sums, kSoftmaxChunk},
            [&](int, int64_t begin, int64_t end) { kernels().sum_chunks(row, begin, end); });
      to[r] = kernels().log_sum(row);
    }
    return;
  }
  split(n_threads, s, [&](int worker, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      SoftmaxRow row = first;
      row.x += r * s.n, row.sums = scratch.sums.get() + worker * scratch.n_sums;
      kernels().sum_chunks(row, 0, scratch.n_sums);
      to[r] = kernels().log_sum(row);
    }
  });
}

const float* optional_vector(const std::optional<Floats>& v, int64_t n) {
  if (!v) return nullptr;
  require(v->ndim() == 1 && v->size() == n);
  return v->data();
}

template <auto kernel>
void norm(const Floats& x, Floats& out, const std::optional<Floats>& weight,
          const std::optional<Floats>& bias, float eps) {
  const Shape s = shape_of(x);
  require(out.size() == x.size());
  const NormRows a{
      x.data(), optional_vector(weight, s.n), optional_vector(bias, s.n), out.mutable_data(), s.n, eps};
  ReleasedGil unlocked;
  split(threads_for(s), s, [&](int, int64_t begin, int64_t end) { (kernels().*kernel)(a, begin, end); });
}

// (positions, 2 * pairs): magnitude times the cosines of position * inv_freq, then the sines. In float64, as
// a float32 product would turn a far position by a visible angle.
std::unique_ptr<float[]> angle_table(const Longs& positions, const Doubles& inv_freq, double magnitude) {
  const int64_t n = positions.size(), half = inv_freq.size();
  std::unique_ptr<float[]> table(new float[static_cast<size_t>(n * half * 2)]);
  const int64_t* p = positions.data();
  const double* f = inv_freq.data();
  split(array_threads(n * half * 32), {n, half * 8}, [&](int, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* row = table.get() + t * half * 2;
      for (int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(p[t]) * f[i];
        row[i] = static_cast<float>(std::cos(angle) * magnitude);
        row[half + i] = static_cast<float>(std::sin(angle) * magnitude);
      }
    }
  });
  return table;
}

// angles[r]: which of the positions row r of x has.
void rope(const Floats& x, Floats& out, const Longs& positions, const Longs& angles, const Doubles& inv_freq,
          double magnitude, bool interleaved) {
  const Shape s = shape_of(x);
  require(out.size() == x.size() && angles.size() == s.rows && inv_freq.size() * 2 <= s.n);
  for (int64_t r = 0; r < s.rows; ++r) require(angles.data()[r] >= 0 && angles.data()[r] < positions.size());
  float* to = out.mutable_data();
  ReleasedGil unlocked;
  const auto table = angle_table(positions, inv_freq, magnitude);
  const RopeRows a{x.data(), table.get(), angles.data(), to, s.n, inv_freq.size() * 2, interleaved};
  split(threads_for(s), s, [&](int, int64_t begin, int64_t end) { kernels().rope_rows(a, begin, end); });
}

void activate(int function, const Floats& gate, const std::optional<Floats>& up, Floats& out) {
  const int64_t n = gate.size();
  require(out.size() == n && function >= 0 && function <= static_cast<int>(Activation::kGeluTanh));
  require(!up || up->size() == n);
  const float *from = gate.data(), *times = up ? up->data() : nullptr;
  float* to = out.mutable_data();
  ReleasedGil unlocked;
  split(array_threads(n * 8), {n, 1}, [&](int, int64_t begin, int64_t end) {
    kernels().activate(static_cast<Activation>(function), from + begin, times ? times + begin : nullptr,
                       to + begin, end - begin);
  });
}

void top_k(const Floats& x, int64_t k, Floats& values, Longs& ids) {
  const Shape s = shape_of(x);
  require(k >= 1 && k <= s.n && s.n <= INT32_MAX && values.size() == s.rows * k &&
          ids.size() == values.size());
  const float* from = x.data();
  float* to = values.mutable_data();
  int64_t* to_ids = ids.mutable_data();
  ReleasedGil unlocked;
  const int n_threads = threads_for(s);
  const int64_t room = top_k_room(s.n, k);
  const std::unique_ptr<uint64_t[]> keys(new uint64_t[static_cast<size_t>(n_threads * room)]);
  split(n_threads, s, [&](int worker, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      kernels().top_k(from + r * s.n, s.n, k, keys.get() + worker * room, to + r * k, to_ids + r * k);
  });
}

}  // namespace

void bind_array_rows(py::module_& m) {
  const auto x = py::arg("x").noconvert(), out = py::arg("out").noconvert();
  const auto weight = py::arg("weight").noconvert(), bias = py::arg("bias").noconvert();
  m.def("softmax", &softmax, x, out, py::arg("logarithm"));
  m.def("logsumexp", &logsumexp, x, out);
  m.def("rms_norm", &norm<&RowKernels::rms_norm_rows>, x, out, weight, bias, py::arg("eps"));
  m.def("layer_norm", &norm<&RowKernels::layer_norm_rows>, x, out, weight, bias, py::arg("eps"));
  m.def("rope", &rope, x, out, py::arg("positions").noconvert(), py::arg("angles").noconvert(),
        py::arg("inv_freq").noconvert(), py::arg("magnitude"), py::arg("interleaved"));
  m.def("activate", &activate, py::arg("function"), py::arg("gate").noconvert(), py::arg("up").noconvert(),
        out);
  m.def("top_k", &top_k, x, py::arg("k"), py::arg("values").noconvert(), py::arg("ids").noconvert());
}

}  // namespace lanner
