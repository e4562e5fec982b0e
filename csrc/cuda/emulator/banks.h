// How often shared memory has to be asked for what the lanes of a warp want at once: counted where the
// configuration says so, as counters "shared wavefronts" and "extra shared wavefronts", the latter also by
// the place in the kernel.
#pragma once

#include <cstddef>

namespace lanner::cuda::emulated {

// The running lane touches n_bytes of shared memory. Lanes that touch the same number of times at the same
// site between two meetings of the warp are taken to do it together.
void count_lane(const void* shared, size_t n_bytes, void* site);
void flush_lanes();  // the running thread's warp meets
void flush_all_lanes();
// The rows of one matrix, each 16 bytes.
void count_rows(const void* const* rows, int n, void* site);

}  // namespace lanner::cuda::emulated
