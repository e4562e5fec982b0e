// out[t] = row token_ids[t] of the embedding, rounded to bf16.
#pragma once

#include "cuda/rows.h"
#include "cuda/weights.h"

namespace lanner::cuda {

struct EmbedArgs {
  const int32_t* token_ids;  // (rows) below weight.n
  Weight weight;             // (V, K)
  bf16* out;                 // (rows, K)
  RowCount rows;

  template <class F>
  void each_field(F&& field) {
    field("token_ids", token_ids), field("weight", weight), field("out", out), field("rows", rows);
  }
};

inline void check(const EmbedArgs& args) {
  check_present("embed", "token_ids", args.token_ids), check_present("embed", "out", args.out);
  check_weight("embed", "weight", args.weight);
}
void embed(const EmbedArgs& args, const Bounds& bounds);

}  // namespace lanner::cuda
