#include "cuda/emulator/report.h"

#include <cxxabi.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/check.h"
#include "cuda/emulator/control.h"

namespace lanner::cuda::emulated {
namespace {

std::vector<std::pair<Violation, int>> violations;
std::map<std::string, int64_t> counted;

// The line of a kernel that led to an address of a module, and of the function it calls there if that is in
// another file: "softmax.cuh:41", "rows.h:20 of softmax.cuh:41". Empty if addr2line knows nothing.
std::string source_line(const char* module, uintptr_t offset) {
  char command[4200], line[1024];
  std::snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%zx 2>/dev/null", module,
                static_cast<size_t>(offset));
  FILE* pipe = popen(command, "r");
  if (!pipe) return "";
  std::string inner, outer;  // of the inlined calls, the innermost first
  while (std::fgets(line, sizeof line, pipe)) {
    std::string frame(line);
    if (frame.find("/emulator/") != std::string::npos || frame.find("??") != std::string::npos) continue;
    frame = frame.substr(frame.rfind('/') + 1);
    frame = frame.substr(0, frame.find_first_of(" \n"));
    if (inner.empty()) inner = frame;
    if (frame.find(".cuh:") != std::string::npos) outer = frame;
  }
  pclose(pipe);
  auto file = [](const std::string& frame) { return frame.substr(0, frame.find(':')); };
  return outer.empty() || file(inner) == file(outer) ? inner : cat(inner, " of ", outer);
}

std::string demangled(const char* symbol) {
  std::unique_ptr<char, void (*)(void*)> plain(abi::__cxa_demangle(symbol, nullptr, nullptr, nullptr),
                                               std::free);
  return plain ? plain.get() : symbol;
}

}  // namespace

void add_violation(const std::string& kind, const std::string& message) {
  for (auto& [violation, n] : violations)
    if (violation.kind == kind && violation.message == message) {
      ++n;
      return;
    }
  if (violations.size() < 100) violations.push_back({{kind, message}, 1});
}

std::vector<Violation> report() {
  std::vector<Violation> all;
  for (auto& [violation, n] : violations) {
    if (n > 1) violation.message += cat(" (", n, " times)");
    all.push_back(std::move(violation));
  }
  violations.clear();
  return all;
}

void count(const char* counter, int64_t n) { counted[counter] += n; }

std::map<std::string, int64_t> counters() { return std::exchange(counted, {}); }

std::string symbol_of(const void* function) {
  Dl_info info;
  return dladdr(function, &info) && info.dli_saddr == function && info.dli_sname ? info.dli_sname : "";
}

// "gemm_kernel<64, 128>", without what all kernels have: void, namespaces, parameters.
std::string name_kernel(const void* function) {
  static std::unordered_map<const void*, std::string> known;
  auto [it, fresh] = known.try_emplace(function);
  if (!fresh) return it->second;
  std::string name = demangled(symbol_of(function).c_str());
  if (const size_t end = name.rfind(">("); end != std::string::npos)
    name.resize(end + 1);
  else
    name.resize(std::min(name.size(), name.find('(')));
  if (name.starts_with("void ")) name.erase(0, 5);
  for (const char* space = "lanner::cuda::"; name.find(space) != std::string::npos;)
    name.erase(name.find(space), std::strlen(space));
  return it->second = name;
}

std::string name_site(void* site) {
  static std::unordered_map<void*, std::string> known;
  auto [it, fresh] = known.try_emplace(site);
  if (!fresh) return it->second;
  Dl_info info;
  if (!dladdr(site, &info)) return it->second = "an unknown place";
  const char* at = static_cast<const char*>(site) - 1;  // in the call, not after it
  it->second =
      source_line(info.dli_fname, static_cast<uintptr_t>(at - static_cast<const char*>(info.dli_fbase)));
  if (it->second.empty() && info.dli_sname)
    it->second = cat(demangled(info.dli_sname), " + ", at - static_cast<const char*>(info.dli_saddr));
  if (it->second.empty())
    it->second = cat(info.dli_fname, " + ", at - static_cast<const char*>(info.dli_fbase));
  return it->second;
}

}  // namespace lanner::cuda::emulated
