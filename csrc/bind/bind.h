// The parts of the extension module. These files are the only ones that include pybind11.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "core/dtype.h"
#include "core/mapped_file.h"

namespace lanner {

// Between Python's paths (str, bytes or os.PathLike) and the bytes that the file system knows.
std::string file_system_path(const pybind11::object& path);
pybind11::object python_path(const std::string& path);

// The bytes [offset, offset + n_bytes) of a file. Throws ModelFileError where they run past its end.
const std::byte* checked_range(const MappedFile& file, uint64_t offset, uint64_t n_bytes);

// Throws std::invalid_argument for a name that is none.
Format format_named(const std::string& name);

void bind_array(pybind11::module_& m);  // _core.array, the kernels behind lanner.ops, by family:
void bind_array_attention(pybind11::module_& m);
void bind_array_matmul(pybind11::module_& m);
void bind_array_quantization(pybind11::module_& m);
void bind_array_rows(pybind11::module_& m);
void bind_bpe(pybind11::module_& m);
void bind_gguf(pybind11::module_& m);
void bind_logits(pybind11::module_& m);  // LogitsRow, log_probs
void bind_mapped_file(pybind11::module_& m);
void bind_memory(pybind11::module_& m);  // KvCache, Step
void bind_packed(pybind11::module_& m);
void bind_profile(pybind11::module_& m);  // StepProfile
void bind_program(pybind11::module_& m);  // Program and the ops of a program as functions
void bind_spm(pybind11::module_& m);

}  // namespace lanner
