// What this machine can run, and how many threads it gives us.
#pragma once

#include <string>
#include <vector>

namespace lanner {

// Instruction sets that this process can execute, best first: "avx512", "avx2", "baseline".
std::vector<std::string> runnable_isas();

inline constexpr int kMaxThreads = 255;  // a worker's task and its size share one 32-bit word (core/pool.cpp)

struct ThreadLimits {
  int affinity = 0;         // processors in this process's affinity mask
  int physical_cores = 0;   // distinct cores among them; SMT siblings count once
  double cgroup_quota = 0;  // processors' worth of time that the cgroup grants, 0 where unlimited
  int n_threads = 1;        // min of the three, the quota rounded down, 1 to kMaxThreads
};

// Reads the affinity mask, /sys topology and the cgroup v1 or v2 quota of every ancestor.
ThreadLimits thread_limits();

}  // namespace lanner
