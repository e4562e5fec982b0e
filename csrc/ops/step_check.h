// What a step points to must exist: kernels follow its ids, rows, positions and pages without a look.
#pragma once

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
  int32_t n_pages = 0;         // of the smallest cache; 0 without one
  int32_t n_cross_pages = 0;   // of the smallest cross cache
  bool appends_cross = false;  // the tokens are the source: their positions lie in the cross cache
  bool whole = false;          // a query sees what comes after it: all of a sequence is in the step

  template <class Args>
  void add(const Args&) {}  // knows no cache
  void add(const RopeAppendArgs& a) { lower(n_pages, a.cache->n_pages); }
  void add(const AppendArgs& a) {
    lower(a.cross ? n_cross_pages : n_pages, a.cache->n_pages);
    appends_cross |= a.cross;
  }
  void add(const AttentionArgs& a) {
    lower(a.cross ? n_cross_pages : n_pages, a.cache->n_pages);
    whole |= !a.cross && !a.causal;
  }

 private:
  static void lower(int32_t& limit, int32_t n) { limit = limit && limit < n ? limit : n; }
};

// Sequences cover the tokens in order; positions are the last ones cached; pages, also those of the cross
// cache, are in theirs.
void check_sequences(const char* op, const Step& step, const CacheLimits& limits);

}  // namespace lanner
