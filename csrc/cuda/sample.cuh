#include "cuda/draw.h"
#include "cuda/sample.h"

namespace lanner::cuda {

// --- kernels ----------------------------------------------------------------------------------------------
// Three launches. The first two read all logits with all multiprocessors: the largest of every stretch; then
// the mass of every stretch and how logits and masses fall into bins. The third, one block for each row,
// takes from the bins which stretches can hold survivors, collects those few in shared memory, and looks at
// nothing else. Where a row is so flat that they do not fit there, it goes on with the row itself.
inline constexpr int kScanThreads = 256, kScanStretches = kScanThreads / kWarpSize;
inline constexpr int kDrawThreads = 512, kDrawWarps = kDrawThreads / kWarpSize;
inline constexpr int kCandidates = 4096;  // with their ids 32 KB
inline constexpr int kDigits = 256;

LANNER_DEVICE int n_stretches(int n) { return ceil_div(n, kSampleStretch); }
LANNER_DEVICE SampleScratch* scratch_of(const SampleArgs& args, int64_t row) {
  return static_cast<SampleScratch*>(args.scratch) + row;
}

// f(x, index) for this lane's elements of a stretch of n; 8 loads are ahead of the first use.
template <class F>
LANNER_DEVICE void each_of_stretch(const float* x, int stretch, int n, F f) {
  const int begin = stretch * kSampleStretch + lane_index();
  for (int k = 0; k < kSampleStretch; k += 8 * kWarpSize) {
    float v[8];
    LANNER_UNROLL
    for (int j = 0; j < 8; ++j) {
      const int i = begin + k + j * kWarpSize;
      v[j] = i < n ? x[i] : -__builtin_inff();
    }
    LANNER_UNROLL
    for (int j = 0; j < 8; ++j) {
      const int i = begin + k + j * kWarpSize;
      if (i < n) f(v[j], i);
    }
  }
}

LANNER_KERNEL(kScanThreads, 2)
sample_highest_kernel(SampleArgs args) {
  begin_kernel();
  const int64_t row = block_y();
  if (row >= *args.rows.n) return;
  SampleScratch* scratch = scratch_of(args, row);
  const int stretch = block_x() * kScanStretches + warp_index();
  if (stretch < n_stretches(args.vocab_size)) {
    float highest = -__builtin_inff();
    each_of_stretch(args.logits + row * args.vocab_size, stretch, args.vocab_size,
                    [&](float x, int) { highest = fmaxf(highest, x); });
    highest = warp_max(highest);
    if (lane_index() == 0) scratch->highest[stretch] = highest;
  }
  for (int i = block_x() * kScanThreads + thread_index(); i < kSampleBins; i += grid_x() * kScanThreads)
    scratch->counts[i] = scratch->mass_low[i] = scratch->mass_high[i] = 0;
}

// Of a row, in every lane.
LANNER_DEVICE float highest_of(const SampleScratch* scratch, int n) {
  float highest = -__builtin_inff();
  for (int s = lane_index(); s < n_stretches(n); s += kWarpSize)
    highest = fmaxf(highest, scratch->highest[s]);
  return warp_max(highest);
}
LANNER_DEVICE bool is_number(float x) { return x >= kLowest && x <= -kLowest; }

LANNER_KERNEL(kScanThreads, 2)
sample_weigh_kernel(SampleArgs args) {
  begin_kernel();
  const int64_t row = block_y();
  if (row >= *args.rows.n) return;
  const Settings how = Settings::of(args.sampling + row * 6);
  if (how.is_greedy) return;
  SampleScratch* scratch = scratch_of(args, row);
  const Scale scale{highest_of(scratch, args.vocab_size), how.inverse};
  if (!is_number(scale.highest)) return;
  int32_t *counts = shared_memory<int32_t>(), *low = counts + kSampleBins, *high = low + kSampleBins;
  for (int i = thread_index(); i < 3 * kSampleBins; i += kScanThreads) counts[i] = 0;
  sync_block();
  const bool cuts = how.cuts();
  const int stretch = block_x() * kScanStretches + warp_index();
  if (stretch < n_stretches(args.vocab_size)) {
    uint64_t mass = 0;
    each_of_stretch(args.logits + row * args.vocab_size, stretch, args.vocab_size, [&](float x, int) {
      const float offset = scale.offset(x);
      const uint64_t w = weight_at(offset);
      if (w == 0) return;
      mass += w;
      if (!cuts) return;
      const int bin = bin_at(offset);
      atomic_add(counts + bin, 1);
      atomic_add_wide(low + bin, high + bin, w);
    });
    mass = warp_sum_wide(mass);
    if (lane_index() == 0) scratch->mass[stretch] = mass;
  }
  sync_block();
  if (!cuts) return;
  for (int i = thread_index(); i < kSampleBins; i += kScanThreads) {
    if (counts[i] == 0) continue;
    atomic_add(scratch->counts + i, counts[i]);
    atomic_add_wide(scratch->mass_low + i, scratch->mass_high + i,
                    joined(static_cast<uint32_t>(low[i]), static_cast<uint32_t>(high[i])));
  }
}

// A row, or what was taken out of one: ids ascend, null where an element's index is its id.
struct Candidates {
  const float* x;
  const int32_t* ids;
  int n;
  LANNER_DEVICE int id(int i) const { return ids ? ids[i] : i; }
};

struct DrawMemory {
  uint64_t mass[kSampleStretches];
  double of_warps[2][kDrawWarps];
  uint64_t sums[kDrawWarps];
  float x[kCandidates];
  int32_t ids[kCandidates];
  int32_t counts[kSampleStretches];
  int32_t digit_counts[kDigits], digit_low[kDigits], digit_high[kDigits];
  Place place;
};

// The block's sum of what each thread has, in every thread. Ends with all having read it.
LANNER_DEVICE uint64_t block_sum_wide(uint64_t x, DrawMemory& m) {
  x = warp_sum_wide(x);
  const int warp = warp_index();
  if (lane_index() == 0) m.sums[warp] = x;
  sync_block();
  uint64_t sum = 0;
  for (int i = 0; i < kDrawWarps; ++i) sum += m.sums[i];
  sync_block();
  return sum;
}

LANNER_DEVICE uint64_t mass_of(const Candidates& c, const Survivors& left, DrawMemory& m) {
  uint64_t sum = 0;
  for (int i = thread_index(); i < c.n; i += kDrawThreads) sum += left.weight(c.x[i], c.id(i));
  return block_sum_wide(sum, m);
}

// The part of a mass that is wanted, at least the least there is.
LANNER_DEVICE uint64_t share_of(float part, uint64_t mass) {
  const double wanted = static_cast<double>(part) * static_cast<double>(mass);
  auto whole = static_cast<uint64_t>(wanted);
  if (static_cast<double>(whole) < wanted) ++whole;
  return whole < 1 ? 1 : whole < mass ? whole : mass;
}

// The largest key such that what has it or a larger one measures at least `target`, which all together do:
// digit by digit, the highest first. Where one element is left with the digits so far, any key will do that
// keeps it, and so the lowest with these digits.
template <class Key, class Measure>
LANNER_DEVICE uint64_t find_border(const Candidates& c, DrawMemory& m, uint64_t target, int last_shift,
                                   Key key, Measure measure) {
  uint64_t prefix = 0;
  for (int shift = 56;; shift -= 8) {
    for (int i = thread_index(); i < kDigits; i += kDrawThreads)
      m.digit_counts[i] = m.digit_low[i] = m.digit_high[i] = 0;
    sync_block();
    for (int i = thread_index(); i < c.n; i += kDrawThreads) {
      const float x = c.x[i];
      const int id = c.id(i);
      const uint64_t each = measure(x, id), k = each ? key(x, id) : 0;
      if (each == 0 || (shift < 56 && k >> (shift + 8) != prefix)) continue;
      const int digit = static_cast<int>(k >> shift & (kDigits - 1));
      atomic_add(m.digit_counts + digit, 1);
      atomic_add_wide(m.digit_low + digit, m.digit_high + digit, each);
    }
    sync_block();
    if (warp_index() == 0) {
      const Place place = find_place(kDigits, target, [&](int i) {
        const int digit = kDigits - 1 - i;
        return joined(static_cast<uint32_t>(m.digit_low[digit]), static_cast<uint32_t>(m.digit_high[digit]));
      });
      if (lane_index() == 0) m.place = place;
    }
    sync_block();
    const int digit = kDigits - 1 - m.place.index;
    prefix = prefix << 8 | static_cast<uint64_t>(digit);
    target -= m.place.before;
    const bool is_alone = m.digit_counts[digit] == 1;
    sync_block();
    if (is_alone || shift == last_shift) return prefix << shift;
  }
}

// The last bin that a survivor can be in, by what the bins of the whole row say.
LANNER_DEVICE int last_bin(const SampleScratch* scratch, const Settings& how, bool has_top_k, uint64_t mass,
                           DrawMemory& m) {
  if (warp_index() == 0) {
    Place place{kSampleBins - 1, 0};
    if (has_top_k) {
      place = find_place(kSampleBins, static_cast<uint64_t>(how.top_k),
                         [&](int i) { return static_cast<uint64_t>(scratch->counts[i]); });
    } else if (how.top_p < 1) {
      place = find_place(kSampleBins, share_of(how.top_p, mass), [&](int i) {
        return joined(static_cast<uint32_t>(scratch->mass_low[i]),
                      static_cast<uint32_t>(scratch->mass_high[i]));
      });
    }
    // Of what top_k leaves top_p wants the mass, with what min_p will drop.
    if (how.min_p > 0 && !(has_top_k && how.top_p < 1)) {
      // A bin more than its logarithm says, whose last bits decide nothing here.
      const float bin = 1.0f - kSampleBinsPerHalving * log2_approx(how.min_p);
      if (bin < place.index) place.index = static_cast<int>(bin);
    }
    if (lane_index() == 0) m.place = place;
  }
  sync_block();
  const int bin = m.place.index;
  sync_block();
  return bin;
}

// Takes what is in bins up to the last out of the row, in the order of its ids, unless that is too much.
LANNER_DEVICE Candidates take_out(const Candidates& row, const SampleScratch* scratch, const Scale& scale,
                                  int last, DrawMemory& m) {
  uint64_t n = 0;
  for (int i = thread_index(); i <= last; i += kDrawThreads) n += static_cast<uint64_t>(scratch->counts[i]);
  n = block_sum_wide(n, m);
  if (n > kCandidates) return row;
  const auto is_taken = [&](float x) {
    const float offset = scale.offset(x);
    return offset < kSampleHalvings && bin_at(offset) <= last;
  };
  const int stretches = n_stretches(row.n), first = warp_index();
  for (int s = first; s < stretches; s += kDrawWarps) {
    uint32_t count = 0;
    if (is_taken(scratch->highest[s]))
      each_of_stretch(row.x, s, row.n, [&](float x, int) { count += is_taken(x) ? 1u : 0u; });
    const uint64_t sum = warp_sum_wide(count);
    if (lane_index() == 0) m.counts[s] = static_cast<int32_t>(sum);
  }
  sync_block();
  // Where each stretch writes: the sum of those ahead of it.
  if (first == 0) {
    uint64_t ahead = 0;
    for (int s = 0; s < stretches; s += kWarpSize) {
      const int i = s + lane_index();
      const auto own = i < stretches ? static_cast<uint64_t>(m.counts[i]) : 0;
      const uint64_t upto = warp_scan(own);
      if (i < stretches) m.counts[i] = static_cast<int32_t>(ahead + upto - own);
      ahead += shuffle_wide(upto, kWarpSize - 1);
    }
  }
  sync_block();
  for (int s = first; s < stretches; s += kDrawWarps) {
    if (!is_taken(scratch->highest[s])) continue;
    int to = m.counts[s];
    for (int k = 0; k < kSampleStretch; k += kWarpSize) {
      const int i = s * kSampleStretch + k + lane_index();
      const float x = i < row.n ? row.x[i] : 0.0f;
      const bool takes = i < row.n && is_taken(x);
      const uint32_t who = ballot(takes);
      const int at = to + __builtin_popcount(who & ((1u << lane_index()) - 1));
      if (takes) m.x[at] = x, m.ids[at] = i;
      to += __builtin_popcount(who);
    }
  }
  sync_block();
  return {m.x, m.ids, static_cast<int>(n)};
}

// The mean offset of the survivors is their entropy, up to the logarithm of their mass.
LANNER_DEVICE float mean_offset(const Candidates& c, const Survivors& left, DrawMemory& m) {
  double mass = 0, moment = 0;
  for (int i = thread_index(); i < c.n; i += kDrawThreads) {
    const auto w = static_cast<double>(left.weight(c.x[i], c.id(i)));
    if (w > 0) mass += w, moment += w * left.scale.offset(c.x[i]);
  }
  mass = warp_sum_double(mass), moment = warp_sum_double(moment);
  const int warp = warp_index();
  if (lane_index() == 0) m.of_warps[0][warp] = mass, m.of_warps[1][warp] = moment;
  sync_block();
  mass = moment = 0;
  for (int i = 0; i < kDrawWarps; ++i) mass += m.of_warps[0][i], moment += m.of_warps[1][i];
  sync_block();
  return static_cast<float>(moment / mass);
}

// Candidates that hold all survivors, and which of them survive.
LANNER_DEVICE void cut(Candidates& c, Survivors& left, const SampleScratch* scratch, const Settings& how,
                       DrawMemory& m) {
  uint64_t mass = 0, n_alive = 0;
  for (int s = thread_index(); s < n_stretches(c.n); s += kDrawThreads) mass += scratch->mass[s];
  mass = block_sum_wide(mass, m);
  for (int i = thread_index(); i < kSampleBins; i += kDrawThreads)
    n_alive += static_cast<uint64_t>(scratch->counts[i]);
  n_alive = block_sum_wide(n_alive, m);
  const bool has_top_k = how.top_k > 0 && how.top_k < static_cast<float>(n_alive);
  c = take_out(c, scratch, left.scale, last_bin(scratch, how, has_top_k, mass, m), m);

  const auto weight = [&](float x, int id) { return left.weight(x, id); };
  if (has_top_k) {
    left.floor = find_border(c, m, static_cast<uint64_t>(how.top_k), 0, key_of, [&](float x, int) {
      return static_cast<uint64_t>(weight_at(left.scale.offset(x)) > 0 ? 1 : 0);
    });
    mass = mass_of(c, left, m);
  }
  if (how.top_p < 1) left.floor = find_border(c, m, share_of(how.top_p, mass), 0, key_of, weight);
  if (how.min_p > 0) left.least = fixed(how.min_p) > 0 ? fixed(how.min_p) : 1;
  if (how.typical_p < 1) {
    left.center = mean_offset(c, left, m);
    mass = mass_of(c, left, m);
    const auto key = [&](float x, int) {
      return static_cast<uint64_t>(~left.distance_bits(left.scale.offset(x))) << 32;
    };
    left.far =
        ~static_cast<uint32_t>(find_border(c, m, share_of(how.typical_p, mass), 32, key, weight) >> 32);
  }
}

LANNER_DEVICE int draw(const Candidates& c, const Survivors& left, const SampleScratch* scratch, bool is_cut,
                       float uniform, DrawMemory& m) {
  const int stretches = n_stretches(c.n), warp = warp_index();
  for (int s = warp; s < stretches; s += kDrawWarps) {
    uint64_t mass = 0;
    if (!is_cut) {
      mass = scratch->mass[s];
    } else {
      each_of_stretch(c.x, s, c.n, [&](float x, int i) { mass += left.weight(x, c.id(i)); });
      mass = warp_sum_wide(mass);
    }
    if (lane_index() == 0) m.mass[s] = mass;
  }
  sync_block();
  if (warp != 0) return 0;
  uint64_t kept = 0;
  for (int s = lane_index(); s < stretches; s += kWarpSize) kept += m.mass[s];
  kept = warp_sum_wide(kept);
  // A uniform of 24 bits stands for what is around it: 0 must not draw a first id whose probability is 1e-30.
  const double at = (static_cast<double>(uniform) + 0x1p-25) * static_cast<double>(kept);
  const uint64_t target = static_cast<uint64_t>(at) + 1;
  const Place stretch = find_place(stretches, target, [&](int s) { return m.mass[s]; });
  const int begin = stretch.index * kSampleStretch;
  const int n = c.n - begin < kSampleStretch ? c.n - begin : kSampleStretch;
  const Place place = find_place(n, target - stretch.before,
                                 [&](int i) { return left.weight(c.x[begin + i], c.id(begin + i)); });
  return c.id(begin + place.index);
}

// The lowest id of the highest logit, by a warp.
LANNER_DEVICE int first_highest(const float* x, const SampleScratch* scratch, int n, float highest) {
  int stretch = 0;
  for (int s = 0; s < n_stretches(n); s += kWarpSize) {
    const int i = s + lane_index();
    const uint32_t who = ballot(i < n_stretches(n) && scratch->highest[i] == highest);
    if (who == 0) continue;
    stretch = s + __builtin_popcount((who & -who) - 1);
    break;
  }
  for (int i = stretch * kSampleStretch; i < n; i += kWarpSize) {
    const uint32_t who = ballot(i + lane_index() < n && x[i + lane_index()] == highest);
    if (who) return i + __builtin_popcount((who & -who) - 1);
  }
  return -1;
}

LANNER_KERNEL(kDrawThreads, 1)
sample_draw_kernel(SampleArgs args) {
  begin_kernel();
  const int64_t row = block_x();
  if (row >= *args.rows.n) return;
  const Settings how = Settings::of(args.sampling + row * 6);
  const SampleScratch* scratch = scratch_of(args, row);
  DrawMemory& memory = *shared_memory<DrawMemory>();
  Candidates c{args.logits + row * args.vocab_size, nullptr, args.vocab_size};
  const float highest = highest_of(scratch, c.n);
  int id = -1;
  if (is_number(highest)) {
    if (how.is_greedy) {
      id = first_highest(c.x, scratch, c.n, highest);
    } else {
      Survivors left{{highest, how.inverse}};
      if (how.cuts()) cut(c, left, scratch, how, memory);
      id = draw(c, left, scratch, how.cuts(), how.uniform, memory);
    }
  }
  if (thread_index() == 0) args.out[row] = id;
}

// --- launchers --------------------------------------------------------------------------------------------
void sample(const SampleArgs& args, const Bounds& bounds) {
  const int n_rows = args.rows.bound(bounds);
  const int64_t wanted = int64_t{n_rows} * sizeof(SampleScratch);
  check(args.scratch_bytes >= wanted, "sample: scratch_bytes is ", args.scratch_bytes, ", wanted ", wanted,
        " for ", n_rows, " rows");
  if (n_rows == 0) return;
  const Grid grid{ceil_div(ceil_div(args.vocab_size, kSampleStretch), kScanStretches), n_rows};
  launch(sample_highest_kernel, {grid, kScanThreads, 0, true}, bounds.stream, args);
  launch(sample_weigh_kernel, {grid, kScanThreads, 3 * kSampleBins * sizeof(int32_t), true}, bounds.stream,
         args);
  launch(sample_draw_kernel, {{n_rows}, kDrawThreads, sizeof(DrawMemory), true}, bounds.stream, args);
}

}  // namespace lanner::cuda
