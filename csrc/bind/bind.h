// The parts of the extension module. These files are the only ones that include pybind11.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace lanner {

void bind_array(pybind11::module_& m);  // _core.array, the kernels behind lanner.ops, by family:
void bind_array_attention(pybind11::module_& m);
void bind_array_matmul(pybind11::module_& m);
void bind_array_quantization(pybind11::module_& m);
void bind_array_rows(pybind11::module_& m);
void bind_bpe(pybind11::module_& m);
void bind_gguf(pybind11::module_& m);
void bind_memory(pybind11::module_& m);   // Packed, KvCache, Step
void bind_program(pybind11::module_& m);  // Program and the ops of a program as functions

}  // namespace lanner
