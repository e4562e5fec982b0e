// The one list of operations on CUDA. X(name, Args)
#pragma once

#include "cuda/activate.h"
#include "cuda/add.h"
#include "cuda/add_positions.h"
#include "cuda/attention.h"
#include "cuda/embed.h"
#include "cuda/gather_rows.h"
#include "cuda/head_norm.h"
#include "cuda/layer_norm.h"
#include "cuda/linear.h"
#include "cuda/linear_sm90.h"
#include "cuda/qk_norm.h"
#include "cuda/rms_norm.h"
#include "cuda/rope_append.h"
#include "cuda/rope_table.h"
#include "cuda/sample.h"
#include "cuda/scale.h"
#include "cuda/softcap.h"
#include "cuda/softmax.h"

#define LANNER_CUDA_OPS(X)            \
  X(activate, ActivateArgs)           \
  X(add, AddArgs)                     \
  X(add_positions, AddPositionsArgs)  \
  X(attention_decode, AttentionArgs)  \
  X(attention_prefill, AttentionArgs) \
  X(embed, EmbedArgs)                 \
  X(gather_rows, GatherRowsArgs)      \
  X(head_norm, HeadNormArgs)          \
  X(layer_norm, LayerNormArgs)        \
  X(linear, LinearArgs)               \
  X(linear_sm90, LinearArgs)          \
  X(linear_tiled, LinearArgs)         \
  X(qk_norm, QkNormArgs)              \
  X(rms_norm, RmsNormArgs)            \
  X(rope_append, RopeAppendArgs)      \
  X(rope_table, RopeTableArgs)        \
  X(sample, SampleArgs)               \
  X(scale, ScaleArgs)                 \
  X(softcap, SoftcapArgs)             \
  X(softmax, SoftmaxArgs)
