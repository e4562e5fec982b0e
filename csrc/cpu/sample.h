// The next token of each row (order of the stages in ops/sample.h), without a sort of the vocabulary.
//
// One pass finds the highest logit and the largest of every 64, and adds up weights where they are wanted.
// Where these maxima show that few logits can survive, those are taken out of the row, and the stages look at
// nothing else; where the row is too flat for that they cut the whole of it at a border (border.h).
#pragma once

#include "cpu/weights.h"
#include "ops/sample.h"

namespace lanner::LANNER_ISA_NS {
namespace {

struct Settings {
  float temperature, top_k, top_p, min_p, typical_p, uniform;
};

// More than this is no longer few.
inline constexpr int kMostTaken = 16384;

// A row on its way from stage to stage.
struct Draw {
  const float* row;
  int n_row;
  Settings how;
  Stretch stretches[kMaxStretches];
  float *maxima, *taken, *room;
  int32_t* taken_ids;
  int64_t n_room;

  Candidates left;
  Survivors weights;
  bool is_cut;     // a stage left less than `left`,
  bool has_trace;  // and the pass that showed where tells the masses of the stretches
  Trace trace;
  bool knows_sums;
  Moments sums;  // of what is left
  int last_tie;  // of the logits at the floor, those up to this index are left
};

template <class Order>
Border border_in(Draw& d, const Order& order, const Candidates& c, double mass, double target,
                 const Heavy& heavy = {}, Trace* trace = nullptr) {
  return find_border(order, c.x, c.n, mass, target, d.room, d.n_room, heavy, trace);
}

// A logit that every survivor reaches; -inf where the maxima do not tell, or tell that there are many.
float limit_of_survivors(Draw& d) {
  const int n = 16 * n_stretches(d.n_row);
  const Candidates maxima{d.maxima, nullptr, n};
  const Weights& weights = d.weights;
  const float none = -__builtin_inff();
  if (d.how.top_k > 0 && d.how.top_k < d.n_row) {
    if (d.how.top_k > n / 4) return none;
    return border_in(d, ByCount{}, maxima, n, d.how.top_k).key;
  }
  float limit = none;
  if (d.how.min_p > 0) {
    // Where rounding could matter the weight itself decides later.
    const double depth = 1e-4 - ::log2(static_cast<double>(d.how.min_p));
    const double lowest = weights.highest - depth / weights.inverse;
    const double slack = 1e-6 * ::fabs(static_cast<double>(weights.highest));
    if (lowest - slack > -__FLT_MAX__) limit = static_cast<float>(lowest - slack);
  }
  // The entropy is that of all that min_p leaves, so nothing else may be missing.
  const bool is_typical = d.how.top_p >= 1 && d.how.typical_p < 1;
  if (is_typical && d.how.min_p > 0) return limit;
  const float wanted = is_typical ? d.how.typical_p : d.how.top_p;
  if (wanted >= 1) return limit;
  // Logits of at least this weigh enough already: the maxima alone among them do.
  const double mass = moments_of(weights, maxima).mass, target = wanted * d.sums.mass;
  if (mass < target) return limit;
  float enough = border_in(d, ByMass<Weights>{weights}, maxima, mass, target).key;
  if (is_typical) {
    // A reach that takes these in, and what is above the center too, suffices.
    const double center = d.sums.moment / d.sums.mass;
    const double low = 2 * center - 1e-4 * (1 - center);
    const double twice = weights.highest + low / weights.inverse;
    if (!(twice > -__FLT_MAX__)) return limit;
    enough = twice < enough ? static_cast<float>(twice) : enough;
  }
  return enough > limit ? enough : limit;
}

// Takes what reaches a limit out of the row, unless that is too much.
void take_out(Draw& d, float limit) {
  int n = 0;
  for (int s = 0; s < n_stretches(d.n_row); ++s) {
    if (d.stretches[s].highest < limit) continue;
    const int end = (s + 1) * kStretch < d.n_row ? (s + 1) * kStretch : d.n_row;
    if (n > kMostTaken - kStretch) return;
    for (int i = s * kStretch; i < end; i += 16)
      for (uint32_t bits = at_least(load_or_lowest(d.row + i, end - i), limit); bits; bits &= bits - 1) {
        const int id = i + __builtin_ctz(bits);
        d.taken[n] = d.row[id], d.taken_ids[n++] = id;
      }
  }
  d.left = {d.taken, d.taken_ids, n};
}

// What was known of the weights before a stage holds no longer.
void set_cut(Draw& d) { d.is_cut = true, d.knows_sums = false, d.has_trace = false; }

// Cuts what is left at a border of logits.
void cut(Draw& d, const Border& border) {
  d.weights.floor = border.key;
  set_cut(d);
  if (!border.is_split) return;
  int64_t n_ties = border.n_ties;
  for (int i = 0; i < d.left.n; ++i)
    if (d.left.x[i] == border.key && --n_ties == 0) d.last_tie = i;
}

// Later stages know survivors by their logits: where some of equal ones are left, those are taken out.
void settle_ties(Draw& d) {
  if (d.last_tie > d.left.n) return;
  int n = 0;
  for (int i = 0; i < d.left.n; ++i) {
    const float x = d.left.x[i];
    if (!(x > d.weights.floor || (x == d.weights.floor && i <= d.last_tie))) continue;
    const int id = d.left.id(i);
    d.taken[n] = x, d.taken_ids[n++] = id;
  }
  d.left = {d.taken, d.taken_ids, n};
  d.last_tie = 0x7fffffff;
}

void know_sums(Draw& d) {
  if (!d.knows_sums)
    d.sums = d.is_cut ? moments_of(d.weights, d.left) : moments_of<Weights>(d.weights, d.left);
  d.knows_sums = true;
}

void keep_top_k(Draw& d) {
  if (!(d.how.top_k > 0 && d.how.top_k < d.left.n)) return;
  cut(d, border_in(d, ByCount{}, d.left, d.left.n, d.how.top_k));
}

void keep_top_p(Draw& d) {
  if (d.how.top_p >= 1) return;
  settle_ties(d);
  know_sums(d);
  const double mass = d.sums.mass, target = d.how.top_p * mass;
  const Border border = d.is_cut
                            ? border_in(d, ByMass<Survivors>{d.weights}, d.left, mass, target, {}, &d.trace)
                            : border_in(d, ByMass<Weights>{d.weights}, d.left, mass, target, {}, &d.trace);
  cut(d, border);
  d.has_trace = d.trace.collected && !border.is_split;
}

void keep_min_p(Draw& d) {
  if (!(d.how.min_p > 0)) return;
  if (d.weights.floor > -__builtin_inff() && weight_of(d.weights, d.weights.floor) >= d.how.min_p) return;
  d.weights.least = d.how.min_p;
  set_cut(d);
}

// The largest of a whole row, most of them: of those that share a lane of a stretch only one is among the
// maxima.
Heavy heavy_of(Draw& d, float* room) {
  const int n = 16 * n_stretches(d.n_row);
  if (d.left.ids || n < 2 * kSample) return {};
  Sample sample;
  draw_sample(ByCount{}, d.maxima, n, {}, {-__builtin_inff(), __builtin_inff(), false, 0}, sample);
  const int64_t wanted = static_cast<int64_t>(kMostHeavy / 2) * sample.n / n;
  Heavy heavy{room, 0, Keyed::key(sample.keyed[wanted])};
  for (int i = 0; i < n && heavy.n < kMostHeavy; ++i)
    if (d.maxima[i] >= heavy.limit) room[heavy.n++] = d.maxima[i];
  return heavy;
}

void keep_typical(Draw& d) {
  if (d.how.typical_p >= 1) return;
  settle_ties(d);
  know_sums(d);
  const double mass = d.sums.mass, target = d.how.typical_p * mass;
  const auto center = static_cast<float>(d.sums.moment / mass);
  float largest[kMostHeavy];
  const Heavy heavy = heavy_of(d, largest);
  const Border border =
      d.is_cut ? border_in(d, ByNearness<Survivors>{d.weights, center}, d.left, mass, target, heavy, &d.trace)
               : border_in(d, ByNearness<Weights>{d.weights, center}, d.left, mass, target, heavy, &d.trace);
  d.weights.center = center, d.weights.reach = -border.key;
  set_cut(d);
  d.has_trace = d.trace.collected;
}

// The first element of a stretch of what is left at which the sum, `sum` before it, is above the target; the
// last that weighs anything where none is, -1 where none does.
int find_in_stretch(const Draw& d, int begin, double& sum, double target) {
  const int end = begin + kStretch < d.left.n ? begin + kStretch : d.left.n;
  int last = -1;
  for (int i = begin; i < end; i += 16) {
    float w[16];
    store(w, d.weights(load_or_lowest(d.left.x + i, end - i)));
    for (int k = 0; k < 16 && i + k < end; ++k) {
      if (!(w[k] > kNothing) || (i + k > d.last_tie && d.left.x[i + k] == d.weights.floor)) continue;
      last = i + k;
      if ((sum += w[k]) > target) return last;
    }
  }
  return last;
}

double mass_of_stretch(const Draw& d, int s) {
  const int begin = s * kStretch, n = d.left.n - begin < kStretch ? d.left.n - begin : kStretch;
  if (d.has_trace) {
    const int from = s > 0 ? d.trace.ends[s - 1] : 0;
    Moments between;
    add_weighted<false>(d.weights, d.trace.collected + from, d.trace.ends[s] - from, between);
    return d.trace.over[s] + between.mass;
  }
  if (!d.left.ids) {
    const Stretch& known = d.stretches[s];
    if (!d.is_cut) return known.sums.mass > 0 ? scale_of(known, d.weights) * known.sums.mass : 0;
    if (!(known.highest >= d.weights.floor)) return 0;
  }
  Moments sums;
  if (begin + n > d.last_tie)
    find_in_stretch(d, begin, sums.mass, __builtin_inf());
  else
    add_weighted<false>(d.weights, d.left.x + begin, n, sums);
  return sums.mass;
}

// By inverse transform, in the order of the ids.
int draw(const Draw& d) {
  double masses[kMaxStretches], kept = 0, sum = 0;
  const int n = n_stretches(d.left.n);
  for (int s = 0; s < n; ++s) kept += masses[s] = mass_of_stretch(d, s);
  // A uniform of 24 bits stands for what is around it: 0 must not draw a first id whose probability is 1e-30.
  const double target = (d.how.uniform + 0x1p-25) * kept;
  int last = 0;
  for (int s = 0; s < n; ++s) {
    if (!(masses[s] > kStretch * kNothing)) continue;
    last = s;
    if (sum + masses[s] > target) break;
    sum += masses[s];
  }
  return d.left.id(find_in_stretch(d, last * kStretch, sum, target));
}

inline int first_of(const float* x, int n, float value) {
  for (int i = 0; i < n; i += 16) {
    const int lane = first_equal(load_or_lowest(x + i, n - i), value);
    if (lane < 16) return i + lane;
  }
  return 0;
}

int sample_row(Draw& d) {
  const float inverse = 1.44269504f / d.how.temperature;                      // weights are powers of two
  const bool is_greedy = !(d.how.temperature > 0 && inverse <= __FLT_MAX__);  // a denormal temperature too
  const bool cuts = d.how.top_k > 0 || d.how.top_p < 1 || d.how.min_p > 0 || d.how.typical_p < 1;
  const bool has_top_k = d.how.top_k > 0 && d.how.top_k < d.n_row;
  const bool needs_mass = !is_greedy && !has_top_k;
  const bool needs_moments = needs_mass && d.how.typical_p < 1;
  const int n = n_stretches(d.n_row);
  (needs_moments ? scan<Sums::kMoments>
   : needs_mass  ? scan<Sums::kMass>
                 : scan<Sums::kNone>)(d.row, d.n_row, inverse, d.stretches, d.maxima);
  int top = 0;
  for (int s = 1; s < n; ++s)
    if (d.stretches[s].highest > d.stretches[top].highest) top = s;
  const float highest = d.stretches[top].highest;
  if (!(highest >= -__FLT_MAX__ && highest <= __FLT_MAX__)) return -1;  // nothing to choose by
  if (is_greedy) {
    const int begin = top * kStretch;
    return begin + first_of(d.row + begin, d.n_row - begin, highest);
  }
  d.weights = {{highest, inverse}};
  d.is_cut = d.has_trace = d.knows_sums = false, d.last_tie = 0x7fffffff;
  d.left = {d.row, nullptr, d.n_row};
  if (needs_mass) d.sums = merge(d.stretches, n, d.weights), d.knows_sums = true;
  if (cuts) {
    const float limit = limit_of_survivors(d);
    if (limit > -__builtin_inff()) take_out(d, limit);
    keep_top_k(d);
    keep_top_p(d);
    keep_min_p(d);
    keep_typical(d);
  }
  return draw(d);
}

void sample(const SampleArgs& a, const Step& step, const Worker& worker, int begin, int end) {
  const int n = a.logits.cols, n_maxima = 16 * n_stretches(n);
  Draw d;
  d.n_row = n;
  d.maxima = reinterpret_cast<float*>(worker.scratch);
  d.taken = d.maxima + n_maxima;
  d.taken_ids = reinterpret_cast<int32_t*>(d.taken + n);
  d.room = d.taken + 2 * n;
  d.n_room = reinterpret_cast<float*>(worker.scratch + kScratchBytes) - d.room;
  for (int r = begin; r < end; ++r) {
    const float* how = step.sampling + static_cast<int64_t>(r) * kSamplingCols;
    d.row = a.logits.row(worker, r);
    d.how = {how[0], how[1], how[2], how[3], how[4], how[5]};
    *a.out.row(worker, r) = sample_row(d);
  }
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
