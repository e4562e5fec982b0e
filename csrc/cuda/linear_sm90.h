// `linear` for many tokens on an H100, with weights in row-major order.
#pragma once

#include "cuda/linear.h"

namespace lanner::cuda {

// Needs args.plain and no norm.
void linear_sm90(const LinearArgs& args, const Bounds& bounds);

// Enough tiles for two thirds of the multiprocessors: with fewer, smaller tiles of slower instructions win.
bool sm90_is_faster(const LinearArgs& args, const Bounds& bounds);

}  // namespace lanner::cuda
