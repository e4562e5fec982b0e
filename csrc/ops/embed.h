// out[t] = row token_ids[t] of the embedding, dequantized from the packed weight.
#pragma once

#include "ops/packed.h"

namespace lanner {

struct EmbedArgs {
  const PackedWeight* weight;  // (V, K)
  Rows<float> out;             // (T, K)
};

inline void check(const EmbedArgs& a) {
  check_kind("embed", "out", a.out, RowKind::kTokens);
  check_cols("embed", "out", a.out, a.weight->k);
}
inline int units(const EmbedArgs&, const Step& step) { return step.n_tokens; }
inline Cost cost(const EmbedArgs& a, const Step& step) {
  const double row = static_cast<double>(a.weight->n_bytes) / a.weight->n;
  return {step.n_tokens * (row + 4.0 * a.weight->k), 0};
}

}  // namespace lanner
