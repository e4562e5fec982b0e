#include "ops/attention.h"

#include <algorithm>
#include <cmath>

namespace lanner {

namespace {

// Up to this many tokens of a sequence, threads share its chunks; beyond, its strips are enough to share.
constexpr int kSplitTokens = 4;

// The strip of tokens first <= t < end of a sequence, for every KV head.
void add_strip(AttentionPlan& plan, const AttentionArgs& a, const Step& step, int32_t seq, int32_t first,
               int32_t end, bool few, size_t& n_floats) {
  const KvCache& c = *a.cache;
  const size_t part_floats =
      (2 + static_cast<size_t>(c.value_dim)) * static_cast<size_t>((end - first) * a.group_heads());
  const int32_t first_chunk = seen_keys(a, step, first, seq).first / kChunkPositions;
  const int32_t end_chunk = (seen_keys(a, step, end - 1, seq).end + kChunkPositions - 1) / kChunkPositions;
  const bool split = few && end_chunk - first_chunk > 1;
  for (int32_t head = 0; head < c.n_kv_heads; ++head) {
    const int32_t group = static_cast<int32_t>(plan.groups.size());
    plan.groups.push_back({static_cast<int32_t>(plan.units.size()), split ? end_chunk - first_chunk : 1});
    if (!split) plan.units.push_back({seq, head, first, end - first, -1, group, n_floats});
    for (int32_t chunk = first_chunk; split && chunk < end_chunk; ++chunk, n_floats += part_floats)
      plan.units.push_back({seq, head, first, end - first, chunk, group, n_floats});
  }
}

// Pairs of a query and a key that it sees. Under a window the last query loses n_keys - window of the keys
// before it, the one before it one less, and so on.
double n_pairs(const AttentionArgs& a, double n_queries, double n_keys) {
  if (!a.causal) return n_queries * n_keys;
  const double lost = a.window ? std::max(n_keys - a.window, 0.0) : 0, losers = std::min(lost, n_queries);
  return n_queries * (n_keys - (n_queries - 1) / 2) - losers * (lost - (losers - 1) / 2);
}

}  // namespace

bool cuts_alike(const AttentionArgs& a, const AttentionArgs& b) {
  return a.n_heads == b.n_heads && a.cache->n_kv_heads == b.cache->n_kv_heads &&
         a.cache->value_dim == b.cache->value_dim && a.window == b.window && a.causal == b.causal &&
         a.cross == b.cross;
}

void prepare(AttentionPlan& plan, const AttentionArgs& a, const Step& step) {
  plan.units.clear();
  plan.groups.clear();
  size_t n_floats = 0;
  const int32_t strip = std::max(1, kStripRows / a.group_heads());
  for (int32_t seq = 0; seq < step.n_seqs; ++seq) {
    const int32_t first = step.seq_starts[seq], end = step.seq_starts[seq + 1];
    for (int32_t t = end; t > first; t -= std::min(strip, t - first))
      add_strip(plan, a, step, seq, std::max(first, t - strip), t, end - first <= kSplitTokens, n_floats);
  }
  if (plan.partials.size() < n_floats) plan.partials.resize(n_floats);
  if (plan.n_counters < plan.groups.size()) {
    plan.n_counters = plan.groups.size() * 2;
    plan.n_pending = std::make_unique<std::atomic<int32_t>[]>(plan.n_counters);
  }
  for (size_t g = 0; g < plan.groups.size(); ++g)
    plan.n_pending[g].store(plan.groups[g].n_units, std::memory_order_relaxed);
}

void check(const AttentionArgs& a) {
  const KvCache& c = *a.cache;
  check(a.layer >= 0 && a.layer < c.n_layers, "attention: layer is ", a.layer, ", the cache has ",
        c.n_layers);
  check(a.n_heads > 0 && a.n_heads % c.n_kv_heads == 0, "attention: n_heads is ", a.n_heads,
        ", wanted a multiple of n_kv_heads, ", c.n_kv_heads);
  check(a.group_heads() <= kStripRows, "attention: ", a.n_heads, " heads over ", c.n_kv_heads,
        " KV heads, wanted at most ", kStripRows, " each");
  check_head_dim("attention", c);
  check_kind("attention", "q", a.q, RowKind::kTokens);
  check_kind("attention", "out", a.out, RowKind::kTokens);
  check(a.q.cols >= a.n_heads * c.head_dim, "attention: q has ", a.q.cols, " columns, wanted at least ",
        a.n_heads * c.head_dim);
  check_cols("attention", "out", a.out, int64_t{a.n_heads} * c.head_dim);
  check(!a.cross || !a.causal, "attention: causal is true, wanted false where keys are in a cross cache");
  check(a.window >= 0, "attention: window is ", a.window, ", wanted a number that is not negative");
  check(!a.window || a.causal, "attention: window is ", a.window, ", wanted 0 where causal is false");
  check(a.softcap >= 0 && std::isfinite(a.softcap), "attention: softcap is ", a.softcap,
        ", wanted a finite number that is not negative");
  if (!a.bias.size) return;
  check(!a.cross, "attention: there is a bias, wanted none where keys are in a cross cache");
  check(a.bias.size % a.n_heads == 0 && a.bias_cols() % 2 == 1, "attention: bias has ", a.bias.size,
        " elements, wanted an odd number for each of ", a.n_heads, " heads");
  for (int64_t i = 0; i < a.bias.size; ++i)
    check(std::isfinite(a.bias.data[i]), "attention: bias[", i, "] is ", a.bias.data[i],
          ", wanted a finite number");
}

Cost cost(const AttentionArgs& a, const Step& step) {
  const KvCache& c = *a.cache;
  Cost total;
  for (int32_t s = 0; s < step.n_seqs; ++s) {
    const double n_queries = step.seq_starts[s + 1] - step.seq_starts[s], n = n_keys(a, step, s);
    const double n_read = a.window ? std::min(n, n_queries + a.window - 1) : n;
    total.n_bytes += n_read * c.n_kv_heads * (c.head_dim + c.value_dim) * element_bytes(c.type) +
                     n_read * c.n_kv_heads * 2 * (c.scale_bytes / kPagePositions);
    total.n_flops += 4.0 * n_pairs(a, n_queries, n) * a.n_heads * c.head_dim;
  }
  total.n_bytes += 8.0 * step.n_tokens * a.out.cols;
  return total;
}

}  // namespace lanner
