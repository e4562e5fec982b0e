// The flat program on a GPU: launches in order, in two lists. One is for steps in which every sequence has
// one token, which decoding has, and is recorded as a graph for each bucket of 1, 2, 4, 8, 16 or 32 rows; the
// other is for all other steps and is launched directly.
//
// A step reaches the GPU in one copy: its arrays lie one behind the other, the block tables last, so that the
// rows of the sequences that there are end the copy.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "cuda/op.h"
#include "ops/step_check.h"

namespace lanner::cuda {

inline constexpr int kSamplingCols = 6;
inline constexpr int kMostRowsOfGraph = 32;

struct StepSizes {
  int32_t max_tokens, max_seqs, max_outputs, max_pages, n_groups;
  int32_t max_keys;     // of a sequence: graphs are made for so many
  int32_t n_positions;  // of the shortest table of learned positions; max_keys and more: there is none
};

// Where the arrays of a step lie, in bytes from the first.
struct StepLayout {
  explicit StepLayout(const StepSizes& s);
  size_t counts, token_ids, positions, token_seqs, seq_starts, kv_lens, output_rows, sampling, block_tables;
  size_t table_row_bytes;  // of a sequence: the pages of all its groups
  size_t n_bytes;
};

struct Launch {
  std::string name, op;
  std::function<void(const Bounds&)> run;
};

enum class Steps { kDecode, kOther };

class Program {
 public:
  // `step_memory` is device memory of StepLayout's size; the limits are what a step may refer to.
  Program(const StepSizes& sizes, std::byte* step_memory, int32_t vocab_size, CacheLimits limits);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  StepArrays step_arrays(int32_t group) const;
  const StepLayout& layout() const { return layout_; }
  void add(Steps steps, Launch launch) {
    (steps == Steps::kDecode ? decode_ : other_).push_back(std::move(launch));
  }
  // Device address of the ids (R,) int32 that come back after every step.
  void set_ids(const int32_t* ids) { device_ids_ = ids; }

  // Returns when the step has run. Throws std::invalid_argument where it refers to what does not exist.
  void run(const Step& step);
  // Milliseconds of every launch of a step, which runs without a graph.
  std::vector<float> run_timed(const Step& step);

  const std::vector<int32_t>& ids() const { return ids_; }  // of the last step
  // Rows of the last step go to the host.
  void read(void* host, const void* device, size_t n_bytes) { copy_to_host(host, device, n_bytes, stream_); }
  const std::vector<Launch>& launches(Steps steps) const {
    return steps == Steps::kDecode ? decode_ : other_;
  }
  size_t n_graphs() const { return graphs_.size(); }
  Stream stream() const { return stream_; }

 private:
  static bool is_decode(const Step& step);
  void check_step(const Step& step) const;
  void upload(const Step& step);
  Bounds bounds_of(const Step& step) const;
  Graph* record_graph(const Bounds& bounds);
  void read_ids(const Step& step);
  void settle() noexcept;

  const StepSizes sizes_;
  const StepLayout layout_;
  std::byte* const step_memory_;
  const int32_t vocab_size_;
  const CacheLimits limits_;
  std::vector<Launch> decode_, other_;
  std::map<int32_t, Graph*> graphs_;  // by bucket
  Stream stream_ = nullptr;
  std::byte* staging_ = nullptr;  // of the host, as step_memory
  const int32_t* device_ids_ = nullptr;
  std::vector<int32_t> ids_;
};

}  // namespace lanner::cuda
