// The kernels of the instruction set that was chosen for this process.
#pragma once

#include "ops/table.h"

namespace lanner {

// The best set that can run, or the one that LANNER_ISA names. Throws DeviceError where that one cannot.
const CpuTable& cpu_table();

}  // namespace lanner
