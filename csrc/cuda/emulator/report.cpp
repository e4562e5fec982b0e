#include "cuda/emulator/report.h"

#include <cxxabi.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
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

// What addr2line says of an address of a module, empty if it knows nothing.
std::string source_line(const char* module, uintptr_t offset) {
  char command[4200], line[1024] = "";
  std::snprintf(command, sizeof command, "addr2line -e '%s' 0x%zx 2>/dev/null", module,
                static_cast<size_t>(offset));
  FILE* pipe = popen(command, "r");
  if (!pipe) return "";
  if (!std::fgets(line, sizeof line, pipe)) line[0] = 0;
  pclose(pipe);
  std::string found(line);
  if (found.find("??") != std::string::npos || found.find(':') == std::string::npos) return "";
  found = found.substr(found.rfind('/') + 1);
  return found.substr(0, found.find_first_of(" \n"));
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

std::string name_site(void* site) {
  static std::unordered_map<void*, std::string> known;
  auto [it, fresh] = known.try_emplace(site);
  if (!fresh) return it->second;
  Dl_info info;
  if (!dladdr(site, &info)) return it->second = "an unknown place";
  const char* at = static_cast<const char*>(site) - 1;  // in the call, not after it
  it->second =
      source_line(info.dli_fname, static_cast<uintptr_t>(at - static_cast<const char*>(info.dli_fbase)));
  if (it->second.empty() && info.dli_sname) {
    std::unique_ptr<char, void (*)(void*)> plain(
        abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, nullptr), std::free);
    it->second =
        cat(plain ? plain.get() : info.dli_sname, " + ", at - static_cast<const char*>(info.dli_saddr));
  }
  if (it->second.empty())
    it->second = cat(info.dli_fname, " + ", at - static_cast<const char*>(info.dli_fbase));
  return it->second;
}

}  // namespace lanner::cuda::emulated
