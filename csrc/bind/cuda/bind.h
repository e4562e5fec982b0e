#pragma once

#include <pybind11/pybind11.h>

namespace lanner::cuda {

void bind_memory(pybind11::module_& m);
void bind_ops(pybind11::module_& m);
void bind_program(pybind11::module_& m);
#ifdef LANNER_CUDA_EMULATED
void bind_emulator(pybind11::module_& m);
#endif

}  // namespace lanner::cuda
