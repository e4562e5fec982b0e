#include "ops/attention.h"

#include <algorithm>

namespace lanner {

namespace {

// Up to this many tokens of a sequence, threads share its chunks; beyond, its strips are enough to share.
constexpr int kSplitTokens = 4;

int n_chunks(int32_t kv_len) { return (kv_len + kChunkPositions - 1) / kChunkPositions; }

void add_sequence(AttentionPlan& plan, const AttentionArgs& a, const Step& step, int32_t seq,
                  size_t& n_floats) {
  const KvCache& c = *a.cache;
  const int32_t group_heads = a.n_heads / c.n_kv_heads;
  const int32_t first = step.seq_starts[seq], end = step.seq_starts[seq + 1];
  const int32_t strip = std::max(1, kStripRows / group_heads);
  const int chunks = n_chunks(step.kv_lens[seq]);
  const bool split = end - first <= kSplitTokens && chunks > 1;
  const size_t row_floats = 2 + static_cast<size_t>(c.value_dim);

  for (int32_t t = end; t > first; t -= std::min(strip, t - first)) {
    const int32_t n = std::min(strip, t - first);
    for (int32_t head = 0; head < c.n_kv_heads; ++head) {
      const int32_t group = static_cast<int32_t>(plan.groups.size());
      plan.groups.push_back({static_cast<int32_t>(plan.units.size()), split ? chunks : 1});
      for (int chunk = split ? 0 : -1; chunk < (split ? chunks : 0); ++chunk) {
        plan.units.push_back({seq, head, t - n, n, chunk, group, n_floats});
        if (split) n_floats += row_floats * static_cast<size_t>(n * group_heads);
      }
    }
  }
}

}  // namespace

void prepare(AttentionPlan& plan, const AttentionArgs& a, const Step& step) {
  plan.units.clear();
  plan.groups.clear();
  size_t n_floats = 0;
  for (int32_t seq = 0; seq < step.n_seqs; ++seq) add_sequence(plan, a, step, seq, n_floats);
  if (plan.partials.size() < n_floats) plan.partials.resize(n_floats);
  if (plan.n_counters < plan.groups.size()) {
    plan.n_counters = plan.groups.size() * 2;
    plan.n_pending = std::make_unique<std::atomic<int32_t>[]>(plan.n_counters);
  }
  for (size_t g = 0; g < plan.groups.size(); ++g)
    plan.n_pending[g].store(plan.groups[g].n_units, std::memory_order_relaxed);
}

}  // namespace lanner
