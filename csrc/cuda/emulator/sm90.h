// What a block of sm_90 kernels has under way: barriers, tensor copies, multiplications.
#pragma once

namespace lanner::cuda::emulated {

void begin_block_barriers();
void begin_block_wgmma();

}  // namespace lanner::cuda::emulated
