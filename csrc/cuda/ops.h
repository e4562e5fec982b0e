// The one list of operations on CUDA. X(name, Args)
#pragma once

#include "cuda/activate.h"
#include "cuda/add.h"
#include "cuda/layer_norm.h"
#include "cuda/linear.h"
#include "cuda/qk_norm.h"
#include "cuda/rms_norm.h"
#include "cuda/scale.h"
#include "cuda/softcap.h"
#include "cuda/softmax.h"

#define LANNER_CUDA_OPS(X)     \
  X(activate, ActivateArgs)    \
  X(add, AddArgs)              \
  X(layer_norm, LayerNormArgs) \
  X(linear, LinearArgs)        \
  X(qk_norm, QkNormArgs)       \
  X(rms_norm, RmsNormArgs)     \
  X(scale, ScaleArgs)          \
  X(softcap, SoftcapArgs)      \
  X(softmax, SoftmaxArgs)
