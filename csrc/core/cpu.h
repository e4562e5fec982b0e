// What this machine can run.
#pragma once

#include <string>
#include <vector>

namespace lanner {

// Instruction sets that this process can execute, best first: "avx512", "avx2", "baseline"; "neon",
// "baseline" on AArch64. A build for tests adds "avx512_emulated" and "neon_emulated", which want AVX2, at
// the end.
std::vector<std::string> runnable_isas();

}  // namespace lanner
