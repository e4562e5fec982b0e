// launch() of cuda/runtime.h on the CPU.
#pragma once

#include <utility>

#include "cuda/runtime.h"

namespace lanner::cuda {

namespace emulated {

struct Kernel {
  const void* address;
  // Calls it with copies of params.
  void (*invoke)(const void* kernel, const void* const* params);
};

void launch(const Kernel& kernel, const LaunchShape& shape, Stream stream, const void* const* params,
            const size_t* param_bytes, size_t n_params);

template <class... Params>
void invoke(const void* kernel, const void* const* params) {
  [&]<size_t... i>(std::index_sequence<i...>) {
    reinterpret_cast<void (*)(Params...)>(const_cast<void*>(kernel))(
        *static_cast<const Params*>(params[i])...);
  }(std::index_sequence_for<Params...>());
}

}  // namespace emulated

template <class... Params>
void launch(void (*kernel)(Params...), const LaunchShape& shape, Stream stream, const Params&... params) {
  const void* pointers[] = {&params...};
  const size_t n_bytes[] = {sizeof(Params)...};
  emulated::launch({reinterpret_cast<const void*>(kernel), emulated::invoke<Params...>}, shape, stream,
                   pointers, n_bytes, sizeof...(Params));
}

}  // namespace lanner::cuda
