// Errors. Every message finishes the sentence: operation, argument, what was given, what was wanted.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace lanner {

// A file whose bytes contradict its format: truncated, overlapping, out of bounds, non-finite.
struct ModelFileError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A well-formed model that asks for something this library does not compute.
struct UnsupportedModelError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A request that does not fit the stated cap on memory.
struct OutOfMemoryBudget : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A device that is missing, or that cannot run what was forced on it.
struct DeviceError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A request that its caller gave up.
struct Cancelled : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Concatenates anything that an ostream can print.
template <class... Parts>
std::string cat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

// check(ok, parts...) throws std::invalid_argument, which Python sees as ValueError.
template <class... Parts>
void check(bool ok, const Parts&... parts) {
  if (!ok) [[unlikely]]
    throw std::invalid_argument(cat(parts...));
}

}  // namespace lanner
