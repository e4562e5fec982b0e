// cuda/runtime.h over CUDA's runtime, which is linked statically: where there is no driver the module still
// loads, and the first call says what is missing.
#include "cuda/runtime.h"

#include <cuda_runtime_api.h>

#include <mutex>
#include <unordered_map>

namespace lanner::cuda {

namespace {

constexpr int kOldest = 80;  // sm_80: what the kernels use

// "13.0"
std::string version_text(int version) { return cat(version / 1000, ".", version % 1000 / 10); }

[[noreturn]] void fail(const char* call, cudaError_t error) {
  cudaGetLastError();  // one that is not sticky is told once
  if (error == cudaErrorMemoryAllocation)
    throw OutOfMemoryBudget(cat(call, ": the GPU has no room (", cudaGetErrorString(error), ")"));
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction)
    throw DeviceError(cat(call, ": this build has no code for sm_", device_info().sm_version, " (",
                          device_info().name, ")"));
  throw DeviceError(cat(call, ": ", cudaGetErrorString(error), " (", cudaGetErrorName(error), ")"));
}

void must(const char* call, cudaError_t error) {
  if (error != cudaSuccess) [[unlikely]]
    fail(call, error);
}
#define MUST(call, ...) must(#call, call(__VA_ARGS__))

DeviceInfo find_device() {
  int driver = 0, built = 0, n_devices = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&built);
  const cudaError_t error = cudaGetDeviceCount(&n_devices);
  if (error == cudaErrorInsufficientDriver && driver == 0)
    throw DeviceError("no NVIDIA driver was found: its library libcuda.so.1 is missing");
  if (error == cudaErrorInsufficientDriver)
    throw DeviceError(cat("the NVIDIA driver is for CUDA ", version_text(driver), ", this build needs ",
                          version_text(built), " or later"));
  if (error == cudaErrorNoDevice || (error == cudaSuccess && n_devices == 0))
    throw DeviceError("the NVIDIA driver found no GPU that this process may use");
  must("cudaGetDeviceCount", error);

  cudaDeviceProp properties{};
  MUST(cudaGetDeviceProperties, &properties, 0);
  DeviceInfo info;
  info.name = properties.name;
  info.sm_version = properties.major * 10 + properties.minor;
  info.n_sms = properties.multiProcessorCount;
  info.shared_bytes_per_block = static_cast<int>(properties.sharedMemPerBlockOptin);
  if (info.sm_version < kOldest)
    throw DeviceError(cat("this build has no code for sm_", info.sm_version, " (", info.name,
                          "), only for sm_80 and later"));
  info.n_bytes = properties.totalGlobalMem;  // not cudaMemGetInfo's: that makes a context, which takes memory
  return info;
}

cudaStream_t of(Stream stream) { return static_cast<cudaStream_t>(stream); }

// A kernel that asks for more than 48 KB must be told so, once. All kernels divide the memory of a
// multiprocessor alike, so that one may begin there while the other ends, and as many blocks fit as its
// shared memory has room for.
constexpr size_t kUnaskedBytes = 48 << 10;

void allow_shared(const void* kernel, size_t n_bytes) {
  static std::mutex mutex;
  static std::unordered_map<const void*, size_t> allowed;
  const std::lock_guard lock(mutex);
  const auto [found, is_new] = allowed.try_emplace(kernel, kUnaskedBytes);
  if (is_new)
    MUST(cudaFuncSetAttribute, kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
         cudaSharedmemCarveoutMaxShared);
  if (n_bytes <= found->second) return;
  MUST(cudaFuncSetAttribute, kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(n_bytes));
  found->second = n_bytes;
}

}  // namespace

const DeviceInfo& device_info() {
  static const DeviceInfo info = find_device();
  return info;
}

size_t free_bytes() {
  device_info();
  size_t n_free = 0, n_bytes = 0;
  MUST(cudaMemGetInfo, &n_free, &n_bytes);
  return n_free;
}

// --- memory -----------------------------------------------------------------------------------------------
void* allocate(size_t n_bytes) {
  device_info();
  void* p = nullptr;
  MUST(cudaMalloc, &p, n_bytes ? n_bytes : 1);
  cudaError_t error = cudaMemset(p, 0, n_bytes);
  // Streams of ours do not wait for the default one, on which zeros are under way still.
  if (error == cudaSuccess) error = cudaStreamSynchronize(nullptr);
  if (error != cudaSuccess) cudaFree(p);
  must("cudaMemset", error);
  return p;
}
void release(void* p) noexcept { cudaFree(p); }

void* allocate_host(size_t n_bytes) {
  device_info();
  void* p = nullptr;
  MUST(cudaMallocHost, &p, n_bytes ? n_bytes : 1);
  return p;
}
void release_host(void* p) noexcept { cudaFreeHost(p); }

void copy_to_device(void* device, const void* host, size_t n_bytes, Stream stream) {
  MUST(cudaMemcpyAsync, device, host, n_bytes, cudaMemcpyHostToDevice, of(stream));
}
void copy_to_host(void* host, const void* device, size_t n_bytes, Stream stream) {
  MUST(cudaMemcpyAsync, host, device, n_bytes, cudaMemcpyDeviceToHost, of(stream));
  synchronize(stream);
}
void copy_on_device(void* to, const void* from, size_t n_bytes, Stream stream) {
  MUST(cudaMemcpyAsync, to, from, n_bytes, cudaMemcpyDeviceToDevice, of(stream));
}
void fill(void* device, uint8_t byte, size_t n_bytes, Stream stream) {
  MUST(cudaMemsetAsync, device, byte, n_bytes, of(stream));
}

// --- streams and graphs -----------------------------------------------------------------------------------
Stream create_stream() {
  device_info();
  cudaStream_t stream = nullptr;
  MUST(cudaStreamCreateWithFlags, &stream, cudaStreamNonBlocking);
  return stream;
}
void destroy(Stream stream) noexcept { cudaStreamDestroy(of(stream)); }
void synchronize(Stream stream) { MUST(cudaStreamSynchronize, of(stream)); }

struct Graph {
  cudaGraphExec_t exec = nullptr;
};

void begin_capture(Stream stream) {
  MUST(cudaStreamBeginCapture, of(stream), cudaStreamCaptureModeThreadLocal);
}
Graph* end_capture(Stream stream) {
  cudaGraph_t recorded = nullptr;
  MUST(cudaStreamEndCapture, of(stream), &recorded);
  auto* graph = new Graph;
  const cudaError_t error = cudaGraphInstantiate(&graph->exec, recorded, 0);
  cudaGraphDestroy(recorded);
  if (error != cudaSuccess) delete graph;
  must("cudaGraphInstantiate", error);
  return graph;
}
void abandon_capture(Stream stream) noexcept {
  cudaGraph_t recorded = nullptr;
  cudaStreamEndCapture(of(stream), &recorded);
  if (recorded) cudaGraphDestroy(recorded);
  cudaGetLastError();
}
void launch(const Graph* graph, Stream stream) { MUST(cudaGraphLaunch, graph->exec, of(stream)); }
void destroy(Graph* graph) noexcept {
  if (graph) cudaGraphExecDestroy(graph->exec);
  delete graph;
}

Event create_event() {
  cudaEvent_t event = nullptr;
  MUST(cudaEventCreate, &event);
  return event;
}
void destroy_event(Event event) noexcept { cudaEventDestroy(static_cast<cudaEvent_t>(event)); }
void record(Event event, Stream stream) {
  MUST(cudaEventRecord, static_cast<cudaEvent_t>(event), of(stream));
}
float milliseconds_between(Event first, Event second) {
  float ms = 0;
  MUST(cudaEventSynchronize, static_cast<cudaEvent_t>(second));
  MUST(cudaEventElapsedTime, &ms, static_cast<cudaEvent_t>(first), static_cast<cudaEvent_t>(second));
  return ms;
}

// --- launches ---------------------------------------------------------------------------------------------
void launch_kernel(const void* kernel, const LaunchShape& shape, Stream stream, void** params, const size_t*,
                   size_t) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  const DeviceInfo& info = device_info();
  allow_shared(kernel, shape.shared_bytes);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(shape.grid.x), static_cast<unsigned>(shape.grid.y),
                        static_cast<unsigned>(shape.grid.z));
  config.blockDim = dim3(static_cast<unsigned>(shape.n_threads));
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = of(stream);
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = shape.overlaps && info.sm_version >= 90 ? 1 : 0;
  MUST(cudaLaunchKernelExC, &config, kernel, params);
}

int blocks_per_sm(const void* kernel, int n_threads, size_t shared_bytes) {
  allow_shared(kernel, shared_bytes);
  int n = 0;
  MUST(cudaOccupancyMaxActiveBlocksPerMultiprocessor, &n, kernel, n_threads, shared_bytes);
  return n;
}

}  // namespace lanner::cuda
