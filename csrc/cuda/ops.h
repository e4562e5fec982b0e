// The one list of operations on CUDA. X(name, Args)
#pragma once

#include "cuda/add.h"

#define LANNER_CUDA_OPS(X) X(add, AddArgs)
