#include "cuda/emulator/banks.h"

#include <algorithm>
#include <unordered_map>
#include <vector>

#include "cuda/emulator/block.h"
#include "cuda/emulator/memory.h"
#include "cuda/emulator/report.h"

namespace lanner::cuda::emulated {
namespace {

constexpr size_t kBankBytes = 4;
constexpr int kBanks = 32;

struct Lanes {
  const void* at[kWarpSize] = {};  // nullptr: does not take part
  size_t n_bytes = 0;
};
struct Site {
  std::vector<Lanes> times;
  size_t n[kWarpSize] = {};
};
std::unordered_map<void*, Site> sites[kMaxThreads / kWarpSize];  // by warp

// Banks give one word each at a time; lanes that want the same word share it.
int wavefronts(const void* const* lanes, int n_lanes, size_t n_bytes) {
  std::vector<size_t> words;
  for (int l = 0; l < n_lanes; ++l) {
    if (!lanes[l]) continue;
    const size_t first = static_cast<size_t>(static_cast<const char*>(lanes[l]) - arena.shared);
    for (size_t w = first / kBankBytes; w < (first + n_bytes + kBankBytes - 1) / kBankBytes; ++w)
      words.push_back(w);
  }
  std::sort(words.begin(), words.end());
  words.erase(std::unique(words.begin(), words.end()), words.end());
  int n_of_bank[kBanks] = {};
  int most = 0;
  for (size_t w : words) most = std::max(most, ++n_of_bank[w % kBanks]);
  return most;
}

void add(int n_wavefronts, void* site) {
  if (n_wavefronts == 0) return;
  count("shared wavefronts", n_wavefronts);
  if (n_wavefronts == 1) return;
  count("extra shared wavefronts", n_wavefronts - 1);
  count(cat("extra shared wavefronts at ", name_site(site)).c_str(), n_wavefronts - 1);
}

// A warp's accesses of 8 bytes are served as halves, of 16 bytes as quarters.
void add_lanes(const Lanes& lanes, void* site) {
  const int at_once = lanes.n_bytes >= 16 ? 8 : lanes.n_bytes >= 8 ? 16 : 32;
  for (int first = 0; first < kWarpSize; first += at_once)
    add(wavefronts(lanes.at + first, at_once, lanes.n_bytes), site);
}

void flush(int warp) {
  for (auto& [site, s] : sites[warp])
    for (const Lanes& lanes : s.times) add_lanes(lanes, site);
  sites[warp].clear();
}

}  // namespace

void count_lane(const void* shared, size_t n_bytes, void* site) {
  if (!configuration().count_banks || !arena.is_shared(shared)) return;
  const int lane = block.lane();
  Site& s = sites[block.running->index / kWarpSize][site];
  const size_t time = s.n[lane]++;
  if (s.times.size() <= time) s.times.resize(time + 1);
  s.times[time].at[lane] = shared;
  s.times[time].n_bytes = n_bytes;
}

void flush_lanes() {
  if (configuration().count_banks) flush(block.running->index / kWarpSize);
}
void flush_all_lanes() {
  if (configuration().count_banks)
    for (int w = 0; w < block.n_threads / kWarpSize; ++w) flush(w);
}

void count_rows(const void* const* rows, int n, void* site) {
  if (configuration().count_banks) add(wavefronts(rows, n, 16), site);
}

}  // namespace lanner::cuda::emulated
