#include "core/cpu.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace lanner {

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
#if defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long kDotProducts = 1ul << 20;  // HWCAP_ASIMDDP of the Linux ABI
  if (getauxval(AT_HWCAP) & kDotProducts) names.push_back("neon");
#endif
  names.push_back("baseline");
#endif
#if defined(LANNER_EMULATED_ISAS)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    names.push_back("avx512_emulated");
    names.push_back("neon_emulated");
  }
#endif
  return names;
}

}  // namespace lanner
