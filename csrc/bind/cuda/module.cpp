// The module of the GPU, lanner._cuda, and of its emulation for tests, _cuda_emulated.
#include <pybind11/pybind11.h>

#include "bind/cuda/bind.h"

namespace lanner::cuda {

PYBIND11_MODULE(LANNER_CUDA_MODULE, m) {
  m.doc() = "Operations on an NVIDIA GPU, on arrays in its memory.";
  bind_memory(m);
  bind_ops(m);
#ifdef LANNER_CUDA_EMULATED
  bind_emulator(m);
#endif
}

}  // namespace lanner::cuda
