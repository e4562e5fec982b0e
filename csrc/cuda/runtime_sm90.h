// What the host makes for kernels of device_sm90.h: ptx/tensor_map.cpp asks the driver for it,
// emulator/tensor_map.cpp keeps it readable.
#pragma once

#include "cuda/device_sm90.h"
#include "cuda/runtime.h"

namespace lanner::cuda {

// Of a row-major matrix (rows, columns) of bf16 at a device address aligned to 16 bytes, columns a multiple
// of 8: copied in tiles of box_rows <= 256 rows and kTileColumns columns.
TensorMap make_tensor_map(const bf16* matrix, int64_t rows, int64_t columns, int box_rows);

}  // namespace lanner::cuda
