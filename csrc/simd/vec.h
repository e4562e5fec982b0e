// Sixteen lanes, whatever the machine: a panel of a packed weight has 16 rows, so every kernel thinks in
// vectors of 16 float32 (F32), 16 int32 (I32) and 64 bytes (Codes: 16 rows x 4 values along K).
//
// Each header defines the same types and functions; the build compiles one set of flags per instruction set
// and names its namespace in LANNER_ISA_NS. Everything sits in an anonymous namespace, so that no symbol of
// one set can be merged with another's by the linker.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifndef LANNER_ISA_NS
#error "LANNER_ISA_NS names the instruction set that this file is compiled for"
#endif

#if defined(LANNER_VEC)  // the header of an emulated set (tests/emulation)
#include LANNER_VEC
#elif defined(__AVX512VNNI__)
#include "simd/vec_avx512.h"
#elif defined(__AVX2__)
#include "simd/vec_avx2.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "simd/vec_neon.h"
#else
#include "simd/vec_baseline.h"
#endif

namespace lanner::LANNER_ISA_NS {
namespace {

// A line to level 1, or to level 2. To GCC a function that does nothing else has no effect, and it deletes
// the calls; the empty statement is one that it must keep.
inline void prefetch(const void* p) {
  __builtin_prefetch(p);
  asm volatile("");
}
inline void prefetch_far(const void* p) {
  __builtin_prefetch(p, 0, 2);
  asm volatile("");
}

}  // namespace
}  // namespace lanner::LANNER_ISA_NS
