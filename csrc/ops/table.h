// The one list of operations. X(name, Args)
#pragma once

#include "ops/activate.h"
#include "ops/add.h"
#include "ops/add_gated.h"
#include "ops/add_positions.h"
#include "ops/append.h"
#include "ops/array_rows.h"
#include "ops/attention.h"
#include "ops/dequantize.h"
#include "ops/embed.h"
#include "ops/experts_down.h"
#include "ops/experts_gate_up.h"
#include "ops/gate_up.h"
#include "ops/gather_rows.h"
#include "ops/head_norm.h"
#include "ops/layer_norm.h"
#include "ops/linear.h"
#include "ops/qk_norm.h"
#include "ops/quantize_rows.h"
#include "ops/rms_norm.h"
#include "ops/rope_append.h"
#include "ops/rope_table.h"
#include "ops/route.h"
#include "ops/sample.h"
#include "ops/scale.h"
#include "ops/sdpa.h"
#include "ops/softcap.h"

#define LANNER_OPS(X)                   \
  X(embed, EmbedArgs)                   \
  X(gather_rows, GatherRowsArgs)        \
  X(rms_norm, RmsNormArgs)              \
  X(quantize_rows, QuantizeRowsArgs)    \
  X(quantize_cols, QuantizeColsArgs)    \
  X(linear, LinearArgs)                 \
  X(gate_up, GateUpArgs)                \
  X(activate, ActivateArgs)             \
  X(softcap, SoftcapArgs)               \
  X(layer_norm, LayerNormArgs)          \
  X(add, AddArgs)                       \
  X(scale, ScaleArgs)                   \
  X(add_positions, AddPositionsArgs)    \
  X(add_gated, AddGatedArgs)            \
  X(route, RouteArgs)                   \
  X(experts_gate_up, ExpertsGateUpArgs) \
  X(experts_down, ExpertsDownArgs)      \
  X(rope_table, RopeTableArgs)          \
  X(rope_append, RopeAppendArgs)        \
  X(append, AppendArgs)                 \
  X(head_norm, HeadNormArgs)            \
  X(qk_norm, QkNormArgs)                \
  X(attention, AttentionArgs)           \
  X(sample, SampleArgs)

namespace lanner {

// The kernels of one instruction set.
struct CpuTable {
  const char* name;
#define LANNER_KERNEL(op, Args) Kernel op;
  LANNER_OPS(LANNER_KERNEL)
#undef LANNER_KERNEL
  // Writes panels begin <= p < end of a segment from its source (ops/packed.h); false where a scale, minimum
  // or float weight is infinite or NaN.
  bool (*pack)(const PackSource& source, const Segment& segment, int begin, int end);
  // Row `row` of a packed weight as k floats, equal to its dequantization bit for bit.
  void (*unpack_row)(const PackedWeight& weight, int row, float* out);
  RowKernels rows;   // ops/array_rows.h
  SdpaKernels sdpa;  // ops/sdpa.h
  // n elements between float32 and the blocks of a format (ops/dequantize.h); n is a multiple of the block.
  // quantize is false where a scale or minimum would be infinite or NaN.
  void (*dequantize)(Format format, const std::byte* data, int64_t n, float* out);
  bool (*quantize)(Format format, const float* x, int64_t n, std::byte* out);
  // Largest of n_bytes read once from memory; a copy of n_bytes; the multiply-adds of n_rounds register-only
  // loops.
  float (*probe_read)(const std::byte* data, size_t n_bytes);
  void (*probe_copy)(const std::byte* from, std::byte* to, size_t n_bytes);
  double (*probe_fma)(int64_t n_rounds);
};

}  // namespace lanner
