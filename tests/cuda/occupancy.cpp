// The toolkit's own count of the blocks that fit on an SM, for a device of which only the limits are known.
#include <cuda_occupancy.h>

extern "C" int blocks_per_sm(int major, int minor, int threads_per_sm, int shared_per_sm, int n_threads,
                             int registers, int shared) {
  cudaOccDeviceProp device;
  device.computeMajor = major;
  device.computeMinor = minor;
  device.maxThreadsPerBlock = 1024;
  device.maxThreadsPerMultiprocessor = threads_per_sm;
  device.regsPerBlock = device.regsPerMultiprocessor = 65536;
  device.warpSize = 32;
  device.sharedMemPerBlock = 48 * 1024;
  device.sharedMemPerMultiprocessor = static_cast<size_t>(shared_per_sm);
  device.numSms = 1;
  device.sharedMemPerBlockOptin = static_cast<size_t>(shared_per_sm - 1024);
  device.reservedSharedMemPerBlock = 1024;
  cudaOccFuncAttributes kernel;
  kernel.maxThreadsPerBlock = n_threads;
  kernel.numRegs = registers;
  kernel.sharedSizeBytes = 0;
  kernel.partitionedGCConfig = PARTITIONED_GC_OFF;
  kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
  kernel.maxDynamicSharedSizeBytes = device.sharedMemPerBlockOptin;
  kernel.numBlockBarriers = 1;
  cudaOccDeviceState state;
  cudaOccResult result;
  if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, n_threads,
                                              static_cast<size_t>(shared)))
    return -1;
  return result.activeBlocksPerMultiprocessor;
}
