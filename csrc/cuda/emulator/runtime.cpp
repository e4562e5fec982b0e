// cuda/runtime.h on the CPU: everything happens at once, in the order of the calls.
#include "cuda/runtime.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <numeric>
#include <vector>

#include "cuda/emulator/access.h"
#include "cuda/emulator/block.h"
#include "cuda/emulator/memory.h"
#include "cuda/emulator/report.h"

namespace lanner::cuda {

struct Graph {
  std::vector<std::function<void()>> steps;
};

namespace emulated {
namespace {

Configuration settings;
Interpreter interpreter;
DeviceInfo info;

constexpr size_t kParamBytes = 4096;  // that a kernel may have
alignas(128) char params_of_launch[kParamBytes];
const void* param_pointers[kParamBytes / 128];

Graph* recording = nullptr;  // between begin_capture and end_capture
Stream recorded_stream = nullptr;

uint32_t next_serial = 1;
uint32_t chain_serial = 1;  // first block of the last launch that did not overlap

// A launch with its own copy of the parameters.
struct Launch {
  Kernel kernel;
  LaunchShape shape;
  std::vector<char> bytes;
  std::vector<size_t> offsets;
  std::vector<size_t> sizes;
};

void check_shape(const LaunchShape& shape, const std::string& name) {
  auto wanted = [&](bool ok, auto... parts) {
    if (!ok) throw DeviceError(cat("launch of ", name, ": ", parts...));
  };
  const Grid& g = shape.grid;
  wanted(g.x >= 1 && g.y >= 1 && g.z >= 1 && g.y <= 65535 && g.z <= 65535, "grid (", g.x, ", ", g.y, ", ",
         g.z, "), at least 1 and at most 65535 in y and z");
  wanted(shape.n_threads >= kWarpSize && shape.n_threads <= kMaxThreads && shape.n_threads % kWarpSize == 0,
         shape.n_threads, " threads a block, wanted whole warps up to 1024 threads");
  wanted(shape.shared_bytes <= static_cast<size_t>(info.shared_bytes_per_block), shape.shared_bytes,
         " bytes of shared memory, a block may have ", info.shared_bytes_per_block);
}

void interpret(const Launch& launch) {
  RecordedLaunch record = {symbol_of(launch.kernel.address),
                           {launch.shape.grid.x, launch.shape.grid.y, launch.shape.grid.z},
                           launch.shape.n_threads,
                           launch.shape.shared_bytes,
                           {}};
  if (record.symbol.empty())
    throw DeviceError("launch: the kernel has no symbol for the interpreter to find it by");
  for (size_t i = 0; i < launch.offsets.size(); ++i)
    record.params.emplace_back(launch.bytes.data() + launch.offsets[i], launch.sizes[i]);
  interpreter(record);
}

void run(const Launch& launch) {
  count("launches", 1);
  if (interpreter) return interpret(launch);
  const Grid& grid = launch.shape.grid;
  block.grid[0] = grid.x, block.grid[1] = grid.y, block.grid[2] = grid.z;
  block.n_threads = launch.shape.n_threads;
  block.shared_bytes = launch.shape.shared_bytes;
  block.invoke = launch.kernel.invoke;
  block.kernel_address = launch.kernel.address;
  block.kernel = name_kernel(launch.kernel.address);

  std::memcpy(params_of_launch, launch.bytes.data(), launch.bytes.size());
  for (size_t i = 0; i < launch.offsets.size(); ++i) param_pointers[i] = params_of_launch + launch.offsets[i];
  block.params = param_pointers;

  std::vector<uint32_t> order(static_cast<size_t>(grid.x) * grid.y * grid.z);
  std::iota(order.begin(), order.end(), 0u);
  if (settings.order == Order::reverse) std::reverse(order.begin(), order.end());
  if (settings.order == Order::random)
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random_below(i)]);

  begin_launch_checks();
  block.first_serial = next_serial;
  if (!launch.shape.overlaps) chain_serial = next_serial;
  block.chain_serial = chain_serial;
  next_serial += static_cast<uint32_t>(order.size());
  for (uint32_t i : order) {
    block.index[0] = static_cast<int>(i % grid.x);
    block.index[1] = static_cast<int>(i / grid.x % grid.y);
    block.index[2] = static_cast<int>(i / grid.x / grid.y);
    block.serial = block.first_serial + i;
    poison_shared(launch.shape.shared_bytes);
    block.run();
  }
}

// One launch at a time: there is one block, and one shared memory.
std::recursive_mutex one_at_a_time;

void now_or_in_graph(Stream stream, std::function<void()> step) {
  const std::lock_guard lock(one_at_a_time);
  if (recording && stream == recorded_stream)
    recording->steps.push_back(std::move(step));
  else
    step();
}

// Not a launch: what is launched next does not overlap with what was launched before.
void copy_now_or_in_graph(Stream stream, std::function<void()> step) {
  now_or_in_graph(stream, [step = std::move(step)] {
    chain_serial = next_serial;
    step();
  });
}

}  // namespace

void configure(const Configuration& configuration) {
  const std::lock_guard lock(one_at_a_time);
  settings = configuration;
  seed_schedule(configuration.seed);
  info = {};
}
const Configuration& configuration() { return settings; }
void set_interpreter(Interpreter callback) { interpreter = std::move(callback); }

void launch(const Kernel& kernel, const LaunchShape& shape, Stream stream, const void* const* params,
            const size_t* param_bytes, size_t n_params) {
  reserve_arena();
  device_info();
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  check_shape(shape, name_kernel(kernel.address));
  Launch launch = {kernel, shape, {}, {}, {}};
  for (size_t i = 0; i < n_params; ++i) {
    const size_t offset = (launch.bytes.size() + 127) / 128 * 128;
    launch.bytes.resize(offset + param_bytes[i]);
    std::memcpy(launch.bytes.data() + offset, params[i], param_bytes[i]);
    launch.offsets.push_back(offset);
    launch.sizes.push_back(param_bytes[i]);
  }
  if (launch.bytes.size() > kParamBytes)
    throw DeviceError(cat("launch: ", launch.bytes.size(), " bytes of parameters, at most ", kParamBytes));
  now_or_in_graph(stream, [launch = std::move(launch)] { run(launch); });
}

}  // namespace emulated

using namespace emulated;

const DeviceInfo& device_info() {
  if (info.name.empty()) {
    reserve_arena();
    const int version = settings.sm_version;
    const int shared = version == 80 ? 163 : version == 90 || version == 100 ? 227 : version == 75 ? 64 : 99;
    info = {"emulated", version, settings.n_sms, shared * 1024, arena.n_bytes};
  }
  return info;
}
size_t free_bytes() {
  device_info();
  return arena.n_bytes - n_allocated_bytes();
}

void copy_to_device(void* device, const void* host, size_t n_bytes, Stream stream) {
  check_allocated("copy_to_device", device, n_bytes);
  copy_now_or_in_graph(stream, [=] {
    std::memcpy(device, host, n_bytes);
    mark_written(device, n_bytes);
  });
}
void copy_to_host(void* host, const void* device, size_t n_bytes, Stream stream) {
  check_allocated("copy_to_host", device, n_bytes);
  copy_now_or_in_graph(stream, [=] { std::memcpy(host, device, n_bytes); });
}
void copy_on_device(void* to, const void* from, size_t n_bytes, Stream stream) {
  check_allocated("copy_on_device", to, n_bytes);
  check_allocated("copy_on_device", from, n_bytes);
  copy_now_or_in_graph(stream, [=] {
    std::memmove(to, from, n_bytes);
    std::memmove(arena.state + arena.offset(to), arena.state + arena.offset(from), n_bytes);
  });
}
void fill(void* device, uint8_t byte, size_t n_bytes, Stream stream) {
  check_allocated("fill", device, n_bytes);
  copy_now_or_in_graph(stream, [=] {
    std::memset(device, byte, n_bytes);
    mark_written(device, n_bytes);
  });
}

Stream create_stream() { return new char; }
void destroy(Stream stream) noexcept { delete static_cast<char*>(stream); }
void synchronize(Stream stream) {
  if (recording && stream == recorded_stream) throw DeviceError("synchronize: the stream is being captured");
}

void begin_capture(Stream stream) {
  if (recording) throw DeviceError("begin_capture: another capture has not ended");
  recording = new Graph;
  recorded_stream = stream;
}
Graph* end_capture(Stream stream) {
  if (!recording || stream != recorded_stream)
    throw DeviceError("end_capture: the stream is not being captured");
  return std::exchange(recording, nullptr);
}
void abandon_capture(Stream stream) noexcept {
  if (recording && stream == recorded_stream) delete std::exchange(recording, nullptr);
}
void launch(const Graph* graph, Stream stream) {
  now_or_in_graph(stream, [graph] {
    for (const auto& step : graph->steps) step();
  });
}
void destroy(Graph* graph) noexcept { delete graph; }

void* allocate_host(size_t n_bytes) { return std::malloc(n_bytes ? n_bytes : 1); }
void release_host(void* p) noexcept { std::free(p); }

Event create_event() { return new std::chrono::steady_clock::time_point; }
void destroy_event(Event event) noexcept {
  delete static_cast<std::chrono::steady_clock::time_point*>(event);
}
void record(Event event, Stream) {
  *static_cast<std::chrono::steady_clock::time_point*>(event) = std::chrono::steady_clock::now();
}
float milliseconds_between(Event first, Event second) {
  const auto at = [](Event e) { return *static_cast<std::chrono::steady_clock::time_point*>(e); };
  return std::chrono::duration<float, std::milli>(at(second) - at(first)).count();
}

// Registers are unknown here: a kernel is taken to need 64 a thread.
int blocks_per_sm(const void*, int n_threads, size_t shared_bytes) {
  const int version = device_info().sm_version;
  const int max_threads = version == 80 || version == 90 || version == 100 ? 2048
                          : version == 75                                  ? 1024
                                                                           : 1536;
  const int by_threads = max_threads / n_threads;
  const int by_registers = 65536 / 64 / n_threads;
  const int by_shared = (device_info().shared_bytes_per_block + 1024) / static_cast<int>(shared_bytes + 1024);
  return std::max(0, std::min({by_threads, by_registers, by_shared, 32}));
}

}  // namespace lanner::cuda
