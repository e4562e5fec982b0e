// Violations and counters, collected until a test asks (control.h).
#pragma once

#include <cstdint>
#include <string>

namespace lanner::cuda::emulated {

// Equal ones are counted, not repeated.
void add_violation(const std::string& kind, const std::string& message);
void count(const char* counter, int64_t n);
// "softmax.cuh:41" if the debugging information says so, otherwise the function and the offset in it.
std::string name_site(void* site);
std::string name_kernel(const void* function);
std::string symbol_of(const void* function);  // mangled; empty if it has none

}  // namespace lanner::cuda::emulated
