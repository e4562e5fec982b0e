// What this machine can run.
#pragma once

#include <string>
#include <vector>

namespace lanner {

// Instruction sets that this process can execute, best first: "avx512", "avx2", "baseline".
std::vector<std::string> runnable_isas();

}  // namespace lanner
