#include "core/cpu.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <utility>

#include "core/check.h"

namespace lanner {

namespace {

std::string first_line(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

std::vector<int> affinity_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof set, &set) == 0)
    for (int i = 0; i < CPU_SETSIZE; ++i)
      if (CPU_ISSET(i, &set)) cpus.push_back(i);
  if (cpus.empty()) cpus.push_back(0);
  return cpus;
}

int count_cores(const std::vector<int>& cpus) {
  std::set<std::pair<std::string, std::string>> cores;
  for (int cpu : cpus) {
    const std::string dir = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    const std::string core = first_line(dir + "core_id");
    // Without topology files every processor counts as a core of its own.
    cores.emplace(first_line(dir + "physical_package_id"), core.empty() ? "cpu" + std::to_string(cpu) : core);
  }
  return static_cast<int>(cores.size());
}

// "max 100000" or "200000 100000" (v2), quota and period in microseconds.
double parse_quota(const std::string& text) {
  std::istringstream in(text);
  double quota = 0, period = 0;
  if (!(in >> quota >> period) || quota <= 0 || period <= 0) return 0;
  return quota / period;
}

double smaller_quota(double a, double b) { return a == 0 ? b : b == 0 ? a : std::min(a, b); }

// The tightest quota between a cgroup and the root of its hierarchy.
double quota_of_ancestors(const std::string& root, std::string group, bool v2) {
  double quota = 0;
  for (;;) {
    const std::string dir = root + group + "/";
    quota = smaller_quota(quota, parse_quota(v2 ? first_line(dir + "cpu.max")
                                                : first_line(dir + "cpu.cfs_quota_us") + " " +
                                                      first_line(dir + "cpu.cfs_period_us")));
    const size_t slash = group.rfind('/');
    if (group.empty() || slash == std::string::npos) return quota;
    group.resize(slash);
  }
}

// Lines of /proc/self/cgroup read "id:controllers:path"; version 2 has no controllers.
double cgroup_quota() {
  std::ifstream in("/proc/self/cgroup");
  double quota = 0;
  for (std::string line; std::getline(in, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = cat(",", line.substr(first + 1, second - first - 1), ",");
    std::string group = line.substr(second + 1);
    if (group == "/") group.clear();
    if (controllers == ",,") {
      quota = smaller_quota(quota, quota_of_ancestors("/sys/fs/cgroup", group, true));
    } else if (controllers.find(",cpu,") != std::string::npos) {
      quota = smaller_quota(quota, quota_of_ancestors("/sys/fs/cgroup/cpu", group, false));
      quota = smaller_quota(quota, quota_of_ancestors("/sys/fs/cgroup/cpu,cpuacct", group, false));
    }
  }
  return quota;
}

}  // namespace

std::vector<std::string> runnable_isas() {
  std::vector<std::string> names;
#if defined(__x86_64__)
  __builtin_cpu_init();  // looks at CPUID and at what the operating system saves (XCR0)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512vnni"))
    names.push_back("avx512");
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
    names.push_back("avx2");
  if (__builtin_cpu_supports("sse4.2")) names.push_back("baseline");
#else
  names.push_back("baseline");
#endif
  return names;
}

ThreadLimits thread_limits() {
  const std::vector<int> cpus = affinity_cpus();
  ThreadLimits limits;
  limits.affinity = static_cast<int>(cpus.size());
  limits.physical_cores = count_cores(cpus);
  limits.cgroup_quota = cgroup_quota();
  limits.n_threads = std::min(limits.affinity, limits.physical_cores);
  // Rounded down: one thread too many gets the whole lockstep group throttled.
  if (limits.cgroup_quota > 0)
    limits.n_threads = std::min(limits.n_threads, static_cast<int>(std::floor(limits.cgroup_quota)));
  limits.n_threads = std::clamp(limits.n_threads, 1, kMaxThreads);
  return limits;
}

}  // namespace lanner
