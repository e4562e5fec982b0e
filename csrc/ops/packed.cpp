#include "ops/packed.h"

#include <limits>
#include <utility>

namespace lanner {

namespace {

void check_source(const PackSource& s) {
  check(s.n_rows > 0 && s.k > 0, "pack: shape is (", s.n_rows, ", ", s.k, "), wanted positive numbers");
  check(s.k % record_of(s.format).k == 0, "pack: a weight of ", info(s.format).name, " has ", s.k,
        " input features, wanted a multiple of ", record_of(s.format).k);
  const int32_t d = s.interleaved_head_dim;
  check(d == 0 || (d > 0 && d % 2 == 0 && s.n_rows % d == 0), "pack: ", s.n_rows,
        " rows do not divide into heads of ", d);
}

}  // namespace

PackedWeight lay_out(const std::vector<PackSource>& sources, std::shared_ptr<Arena> arena,
                     std::span<std::byte> given, std::shared_ptr<const void> owner) {
  check(!sources.empty(), "pack: no weight was given");
  PackedWeight w;
  w.k = sources[0].k;
  int64_t n = 0;
  for (const PackSource& s : sources) {
    check_source(s);
    // The codes of a row of inputs take up to 2.125 bytes each and are counted in an int32.
    check(input_of(s.format) == InputKind::kFloat || s.k <= kMostInputs, "pack: a quantized weight has ", s.k,
          " input features, wanted at most ", kMostInputs);
    check(s.k == w.k, "pack: the weights to be fused have ", w.k, " and ", s.k, " input features");
    const int32_t n_panels = (s.n_rows + kPanelRows - 1) / kPanelRows;
    const size_t panel_bytes = static_cast<size_t>(s.k / record_of(s.format).k) * record_of(s.format).n_bytes;
    w.segments.push_back(
        {s.format, s.n_rows, static_cast<int32_t>(n), w.n_panels, n_panels, panel_bytes, nullptr});
    n += s.n_rows;
    check(n <= std::numeric_limits<int32_t>::max() - kPanelRows, "pack: ", n, " rows are too many");
    w.n_panels += n_panels;
    w.n_bytes += panel_bytes * static_cast<size_t>(n_panels);
  }
  w.n = static_cast<int32_t>(n);
  // Kernels prefetch past the end; what they touch there need not exist, prefetches never fault.
  const bool is_given = given.size() == w.n_bytes;
  std::byte* at = is_given ? given.data() : arena ? arena->take(w.n_bytes) : nullptr;
  if (is_given) {
    w.owner = std::move(owner);
  } else if (at) {
    w.arena = std::move(arena);
  } else {
    w.memory = Memory(w.n_bytes);
    w.memory.advise_huge();
    at = w.memory.data();
  }
  for (Segment& s : w.segments) {
    s.data = at;
    at += s.panel_bytes * static_cast<size_t>(s.n_panels);
  }
  return w;
}

}  // namespace lanner
