// Prints what CuTe says of the layouts that the emulation follows: name, then one number for each (thread,
// value) or (row, column). Compiled for the host against the headers of PyPI's nvidia-cutlass.
#include <cuda_runtime.h>

#include <cstdio>

#include "cute/atom/mma_traits_sm80.hpp"
#include "cute/atom/mma_traits_sm90_gmma.hpp"
#include "cute/tensor.hpp"

using namespace cute;

// Columns of the result vary slowest: what CuTe numbers is row + n_rows * column.
template <class Layout>
void print_fragment(const char* name, const Layout& layout) {
  std::printf("%s", name);
  for (int thread = 0; thread < size<0>(layout); ++thread)
    for (int value = 0; value < size<1>(layout); ++value)
      std::printf(" %d", static_cast<int>(layout(thread, value)));
  std::printf("\n");
}

int main() {
  using Mma = MMA_Traits<SM80_16x8x16_F32BF16BF16F32_TN>;
  print_fragment("mma_a", Mma::ALayout{});
  print_fragment("mma_b", Mma::BLayout{});
  print_fragment("mma_d", Mma::CLayout{});
  using MmaInt8 = MMA_Traits<SM80_16x8x32_S32S8S8S32_TN>;
  print_fragment("mma_int8_a", MmaInt8::ALayout{});
  print_fragment("mma_int8_b", MmaInt8::BLayout{});
  print_fragment("mma_int8_d", MmaInt8::CLayout{});
  print_fragment("wgmma_d",
                 MMA_Traits<SM90_64x256x16_F32BF16BF16_SS<GMMA::Major::K, GMMA::Major::K>>::CLayout{});
  // A tile of 64 columns with the swizzle of 128 bytes.
  const auto tile = as_position_independent_swizzle_layout(
      tile_to_shape(GMMA::Layout_K_SW128_Atom<bfloat16_t>{}, Shape<_256, _64>{}));
  std::printf("tile");
  for (int row = 0; row < 256; ++row)
    for (int column = 0; column < 64; ++column) std::printf(" %d", static_cast<int>(tile(row, column)));
  std::printf("\n");
}
