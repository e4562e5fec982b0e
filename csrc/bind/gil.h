// Lets other threads run Python while this one computes.
#pragma once

#include <Python.h>

#include <chrono>
#include <thread>

namespace lanner {

// In the place of py::gil_scoped_release, which ends the process with "terminate called" where a daemon
// thread computes while the interpreter ends: Python then ends who asks for the lock by unwinding its stack,
// and the destructor that asks lets nothing through. Here such a thread sleeps until the process is gone, and
// one that asked a moment before may be unwound.
class ReleasedGil {
 public:
  explicit ReleasedGil(bool is_wanted = true)
      : began_finalizing_(is_finalizing()), state_(is_wanted ? PyEval_SaveThread() : nullptr) {}
  ReleasedGil(const ReleasedGil&) = delete;
  ReleasedGil& operator=(const ReleasedGil&) = delete;

  ~ReleasedGil() noexcept(false) {
    if (!state_) return;
    // The one thread that ends the interpreter may still compute, and got here with the interpreter ending.
    while (!began_finalizing_ && is_finalizing()) std::this_thread::sleep_for(std::chrono::hours(1));
    PyEval_RestoreThread(state_);
  }

 private:
  static bool is_finalizing() {
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
  }

  bool began_finalizing_;
  PyThreadState* state_;
};

}  // namespace lanner
