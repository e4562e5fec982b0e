// What a step points to must exist: kernels follow its ids, rows, positions and pages without a look.
#pragma once

#include <vector>

#include "ops/append.h"
#include "ops/attention.h"
#include "ops/rope_append.h"

namespace lanner {

// Token ids against the rows of an embedding.
void check_token_ids(const char* op, const Step& step, int32_t vocab_size);

// Output rows against the tokens of the step.
void check_output_rows(const char* op, const Step& step);

// Positions against the rows of a table of learned ones.
void check_positions(const char* op, const Step& step, int32_t n_positions);

// What the attentions and appends of a list ask of the sequences of a step.
struct CacheLimits {
  struct Group {
    int32_t n_pages = 0;  // of the smallest cache; 0 without one
    int32_t n_seen = 1;   // most positions that a query sees up to its own; kAllSeen: no window
  };
  static constexpr int32_t kAllSeen = std::numeric_limits<int32_t>::max();

  std::vector<Group> groups;
  int32_t n_cross_pages = 0;   // of the smallest cross cache
  bool appends_cross = false;  // the tokens are the source: their positions lie in the cross cache
  bool whole = false;          // a query sees what comes after it: all of a sequence is in the step

  template <class Args>
  void add(const Args&) {}  // knows no cache
  void add(const RopeAppendArgs& a) { of(*a.cache); }
  void add(const AppendArgs& a) {
    a.cross ? lower(n_cross_pages, a.cache->n_pages) : void(of(*a.cache));
    appends_cross |= a.cross;
  }
  void add(const AttentionArgs& a) {
    if (a.cross) return lower(n_cross_pages, a.cache->n_pages);
    Group& group = of(*a.cache);
    group.n_seen = std::max(group.n_seen, a.window ? a.window : kAllSeen);
    whole |= !a.causal;
  }

 private:
  Group& of(const KvCache& c) {
    if (groups.size() <= static_cast<size_t>(c.group)) groups.resize(static_cast<size_t>(c.group) + 1);
    Group& group = groups[static_cast<size_t>(c.group)];
    lower(group.n_pages, c.n_pages);
    return group;
  }
  static void lower(int32_t& limit, int32_t n) { limit = limit && limit < n ? limit : n; }
};

// Sequences cover the tokens in order; positions are the last ones cached; pages that a token of the step
// sees or writes are in their caches, also those of the cross cache.
void check_sequences(const char* op, const Step& step, const CacheLimits& limits);

}  // namespace lanner
