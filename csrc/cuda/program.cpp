#include "cuda/program.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace lanner::cuda {

namespace {

constexpr size_t kAlignment = 256;

template <class T>
size_t take(size_t& at, int64_t n) {
  const size_t here = at;
  at += (sizeof(T) * static_cast<size_t>(n) + kAlignment - 1) / kAlignment * kAlignment;
  return here;
}

}  // namespace

StepLayout::StepLayout(const StepSizes& s) {
  size_t at = 0;
  counts = take<StepCounts>(at, 1);
  token_ids = take<int32_t>(at, s.max_tokens);
  positions = take<int32_t>(at, s.max_tokens);
  token_seqs = take<int32_t>(at, s.max_tokens);
  seq_starts = take<int32_t>(at, s.max_seqs + 1);
  kv_lens = take<int32_t>(at, s.max_seqs);
  output_rows = take<int32_t>(at, s.max_outputs);
  sampling = take<float>(at, int64_t{s.max_outputs} * kSamplingCols);
  block_tables = at;
  table_row_bytes = sizeof(int32_t) * static_cast<size_t>(s.n_groups) * static_cast<size_t>(s.max_pages);
  n_bytes = at + table_row_bytes * static_cast<size_t>(s.max_seqs);
}

Program::Program(const StepSizes& sizes, std::byte* step_memory, int32_t vocab_size, CacheLimits limits)
    : sizes_(sizes),
      layout_(sizes),
      step_memory_(step_memory),
      vocab_size_(vocab_size),
      limits_(std::move(limits)) {
  check(sizes.n_groups == static_cast<int32_t>(limits_.groups.size()), "Program: limits of ",
        limits_.groups.size(), " groups, the step has ", sizes.n_groups);
  staging_ = static_cast<std::byte*>(allocate_host(layout_.n_bytes));
  std::memset(staging_, 0, layout_.n_bytes);
  try {
    stream_ = create_stream();
  } catch (...) {
    release_host(staging_);
    throw;
  }
}

Program::~Program() {
  for (const auto& [bucket, graph] : graphs_) destroy(graph);
  destroy(stream_);
  release_host(staging_);
}

StepArrays Program::step_arrays(int32_t group) const {
  check(group >= 0 && group < sizes_.n_groups, "Program: there is no group ", group);
  const auto at = [this](size_t offset) { return reinterpret_cast<const int32_t*>(step_memory_ + offset); };
  StepArrays a{};
  a.counts = reinterpret_cast<const StepCounts*>(step_memory_ + layout_.counts);
  a.token_ids = at(layout_.token_ids), a.positions = at(layout_.positions);
  a.token_seqs = at(layout_.token_seqs), a.seq_starts = at(layout_.seq_starts);
  a.kv_lens = at(layout_.kv_lens), a.output_rows = at(layout_.output_rows);
  a.block_tables = at(layout_.block_tables) + int64_t{group} * sizes_.max_pages;
  a.sampling = reinterpret_cast<const float*>(step_memory_ + layout_.sampling);
  a.max_pages = sizes_.n_groups * sizes_.max_pages;  // from a sequence to the next
  return a;
}

// --- a step -----------------------------------------------------------------------------------------------
bool Program::is_decode(const Step& step) {
  return step.n_tokens == step.n_seqs && step.n_tokens <= kMostRowsOfGraph;
}

void Program::check_step(const Step& s) const {
  check(s.n_tokens >= 1 && s.n_tokens <= sizes_.max_tokens && s.n_seqs <= sizes_.max_seqs &&
            s.n_outputs >= 0 && s.n_outputs <= sizes_.max_outputs && s.max_pages == sizes_.max_pages &&
            s.max_seqs == sizes_.max_seqs && s.n_groups == sizes_.n_groups,
        "Program.run: the step has other sizes than the program");
  check(!is_decode(s) || s.n_outputs <= s.n_tokens, "Program.run: n_outputs is ", s.n_outputs, " of ",
        s.n_tokens, " tokens, each of another sequence");
  check_token_ids("embed", s, vocab_size_);
  check_output_rows("gather_rows", s);
  check_positions("add_positions", s, sizes_.n_positions);
  check_sequences("attention", s, limits_);
}

void Program::upload(const Step& s) {
  const auto put = [this](size_t offset, const auto* from, int64_t n) {
    std::memcpy(staging_ + offset, from, sizeof(*from) * static_cast<size_t>(n));
  };
  const StepCounts counts{s.n_tokens, s.n_seqs, s.n_outputs};
  put(layout_.counts, &counts, 1);
  put(layout_.token_ids, s.token_ids, s.n_tokens), put(layout_.positions, s.positions, s.n_tokens);
  put(layout_.token_seqs, s.token_seqs, s.n_tokens), put(layout_.seq_starts, s.seq_starts, s.n_seqs + 1);
  put(layout_.kv_lens, s.kv_lens, s.n_seqs), put(layout_.output_rows, s.output_rows, s.n_outputs);
  put(layout_.sampling, s.sampling, int64_t{s.n_outputs} * kSamplingCols);
  const size_t group_bytes = sizeof(int32_t) * static_cast<size_t>(sizes_.max_pages);
  for (int32_t seq = 0; seq < s.n_seqs; ++seq) {
    const int64_t n_pages = ceil_div(s.kv_lens[seq], kPagePositions);
    for (int32_t g = 0; g < sizes_.n_groups; ++g)
      put(layout_.block_tables + layout_.table_row_bytes * static_cast<size_t>(seq) +
              group_bytes * static_cast<size_t>(g),
          s.block_tables + (int64_t{g} * s.max_seqs + seq) * s.max_pages, n_pages);
  }
  const size_t n_bytes = layout_.block_tables + layout_.table_row_bytes * static_cast<size_t>(s.n_seqs);
  copy_to_device(step_memory_, staging_, n_bytes, stream_);
}

Bounds Program::bounds_of(const Step& s) const {
  Bounds b;
  b.stream = stream_;
  if (is_decode(s)) {
    b.n_tokens = b.n_seqs = static_cast<int32_t>(std::bit_ceil(static_cast<uint32_t>(s.n_tokens)));
    b.n_outputs = std::min(b.n_tokens, sizes_.max_outputs);
    b.n_keys = sizes_.max_keys;
  } else {
    b.n_tokens = s.n_tokens, b.n_seqs = s.n_seqs, b.n_outputs = s.n_outputs;
    b.n_keys = *std::max_element(s.kv_lens, s.kv_lens + s.n_seqs);
  }
  return b;
}

Graph* Program::record_graph(const Bounds& bounds) {
  begin_capture(stream_);
  try {
    for (const Launch& launch : decode_) launch.run(bounds);
  } catch (...) {
    abandon_capture(stream_);
    throw;
  }
  return end_capture(stream_);
}

void Program::settle() noexcept {
  try {
    synchronize(stream_);
  } catch (const DeviceError&) {  // what is being thrown says more
  }
}

void Program::read_ids(const Step& s) {
  ids_.resize(static_cast<size_t>(s.n_outputs));
  if (device_ids_ && s.n_outputs)
    copy_to_host(ids_.data(), device_ids_, sizeof(int32_t) * ids_.size(), stream_);
  else
    synchronize(stream_);
}

void Program::run(const Step& step) {
  check_step(step);
  upload(step);
  const Bounds bounds = bounds_of(step);
  const auto found = is_decode(step) ? graphs_.find(bounds.n_tokens) : graphs_.end();
  try {
    if (found != graphs_.end()) {
      launch(found->second, stream_);
    } else {
      for (const Launch& launch : launches(is_decode(step) ? Steps::kDecode : Steps::kOther))
        launch.run(bounds);
      // Recorded behind the first run, which has brought the code of all kernels to the GPU.
      if (is_decode(step)) graphs_[bounds.n_tokens] = record_graph(bounds);
    }
  } catch (...) {
    settle();  // the next step writes what this one may still be reading
    throw;
  }
  read_ids(step);
}

std::vector<float> Program::run_timed(const Step& step) {
  check_step(step);
  upload(step);
  const Bounds bounds = bounds_of(step);
  const std::vector<Launch>& list = launches(is_decode(step) ? Steps::kDecode : Steps::kOther);
  std::vector<Event> events(list.size() + 1);
  for (Event& event : events) event = create_event();
  record(events[0], stream_);
  for (size_t i = 0; i < list.size(); ++i) {
    list[i].run(bounds);
    record(events[i + 1], stream_);
  }
  read_ids(step);
  std::vector<float> times;
  for (size_t i = 0; i < list.size(); ++i) times.push_back(milliseconds_between(events[i], events[i + 1]));
  for (Event event : events) destroy_event(event);
  return times;
}

}  // namespace lanner::cuda
