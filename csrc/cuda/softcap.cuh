#include "cuda/softcap.h"

namespace lanner::cuda {

// --- kernels ----------------------------------------------------------------------------------------------
template <class T>
LANNER_KERNEL(kElementThreads, 1)
softcap_kernel(SoftcapArgs args) {
  begin_kernel();
  constexpr int N = 16 / sizeof(T);
  const int64_t i = first_element<N>(args.rows, args.cols);
  if (i < 0) return;
  const float inverse = 1.0f / args.cap;
  float x[N];
  load(static_cast<const T*>(args.x) + i, x);
  LANNER_UNROLL
  for (int k = 0; k < N; ++k) x[k] = args.cap * tanh_of(x[k] * inverse);
  store(static_cast<T*>(args.out) + i, x);
}

// --- launchers --------------------------------------------------------------------------------------------
void softcap(const SoftcapArgs& args, const Bounds& bounds) {
  const int n_rows = args.rows.bound(bounds);
  if (n_rows == 0) return;
  const bool is_wide = args.type == ValueType::kFloat32;
  launch(is_wide ? softcap_kernel<float> : softcap_kernel<bf16>,
         shape_of_elements(n_rows, args.cols, is_wide ? 4 : 8), bounds.stream, args);
}

}  // namespace lanner::cuda
