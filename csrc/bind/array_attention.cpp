// sdpa on NumPy arrays. Python has checked types and shapes, and made the mask as wide as the scores by
// strides.
#include <atomic>
#include <cmath>
#include <optional>

#include "bind/array.h"
#include "bind/gil.h"
#include "core/memory.h"
#include "core/pool.h"
#include "cpu/backend.h"
#include "ops/sdpa.h"

namespace py = pybind11;

namespace lanner {

namespace {

// Enough units per thread that the last ones to finish leave little of the time unused; with fewer, threads
// share the chunks of a unit.
constexpr int64_t kUnitsPerThread = 4;

ArrayView view(const py::array& x) {
  return {static_cast<std::byte*>(const_cast<void*>(x.data())), x.strides(0), x.strides(1), x.strides(2),
          x.strides(3)};
}

void set_mask(SdpaArgs& a, const std::optional<py::array>& mask) {
  if (!mask) return;
  a.mask = view(*mask);
  a.mask_kind = mask->itemsize() == 1 ? MaskKind::kMayAttend : MaskKind::kAdditive;
}

// Scratch of n_threads, kept by the calling thread: a new one would cost a page fault per 4 KB.
std::byte* scratch_of(int n_threads) {
  thread_local Memory memory;
  const size_t wanted = kScratchBytes * static_cast<size_t>(n_threads);
  if (memory.n_bytes() < wanted) memory = Memory(wanted);
  return memory.data();
}

// item(i, scratch of the thread) for 0 <= i < n_items, ascending.
template <class Item>
void share(int n_threads, int64_t n_items, std::byte* scratch, Item item) {
  std::atomic<int64_t> next{0};
  Pool::get().offer(n_threads, [&](int id) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n_items;)
      item(i, scratch + kScratchBytes * static_cast<size_t>(id));
  });
}

void run(const SdpaArgs& a) {
  const SdpaKernels& kernels = cpu_table().sdpa;
  // Inputs are bounded by memory, the product of their lengths is not: count it in floating point.
  const double n_operations = 4.0 * static_cast<double>(a.batch * a.heads * (a.head_dim + a.value_dim)) *
                              static_cast<double>(a.q_len) * static_cast<double>(a.kv_len);
  const int n_threads = array_threads(static_cast<int64_t>(std::min(n_operations, 1e18)));
  std::byte* scratch = scratch_of(n_threads);
  const int64_t n_units = a.n_units(), n_chunks = a.n_chunks();
  if (n_threads == 1 || n_chunks < 2 || n_units >= kUnitsPerThread * n_threads) {
    share(n_threads, n_units, scratch, [&](int64_t unit, std::byte* own) { kernels.whole(a, unit, own); });
    return;
  }
  const size_t floats = partial_floats(a);
  Memory memory(sizeof(float) * floats * static_cast<size_t>(n_units * n_chunks));
  float* partials = reinterpret_cast<float*>(memory.data());
  share(n_threads, n_units * n_chunks, scratch, [&](int64_t i, std::byte* own) {
    kernels.chunk(a, i / n_chunks, i % n_chunks, partials + floats * static_cast<size_t>(i), own);
  });
  share(n_threads, n_units, scratch, [&](int64_t unit, std::byte* own) {
    kernels.merge(a, unit, partials + floats * static_cast<size_t>(unit * n_chunks), own);
  });
}

void sdpa(const py::array& q, const py::array& k, const py::array& v, py::array& out,
          const std::optional<py::array>& mask, std::optional<py::array_t<float>> weights, bool causal,
          float scale, int64_t window, float softcap) {
  SdpaArgs a;
  a.q = view(q), a.k = view(k), a.v = view(v), a.out = view(out);
  set_mask(a, mask);
  if (weights) a.weights = weights->mutable_data();
  a.format = q.itemsize() == 2 ? Format::F16 : Format::F32;
  a.batch = q.shape(0), a.heads = q.shape(1), a.kv_heads = k.shape(1);
  a.q_len = q.shape(2), a.kv_len = k.shape(2), a.head_dim = q.shape(3), a.value_dim = v.shape(3);
  a.scale = scale, a.softcap = softcap, a.window = window, a.causal = causal;
  check(a);
  if (a.batch * a.heads * a.q_len == 0) return;
  ReleasedGil unlocked;
  run(a);
}

}  // namespace

void bind_array_attention(py::module_& m) {
  m.def("sdpa", &sdpa, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("out"), py::kw_only(),
        py::arg("mask"), py::arg("weights"), py::arg("causal"), py::arg("scale"), py::arg("window"),
        py::arg("softcap"));
}

}  // namespace lanner
