// Blocks of a format to float32 and back, on whole arrays.
//
//   dequantize  q4_0, q5_0, q8_0, codebooks: d * code;  q4_1, q5_1: d * code + m;
//               q2_k, q4_k, q5_k: (d * scale) * code - dmin * minimum;  others of 256: (d * scale) * code
//   quantize    float formats round to nearest even. q4_0, q5_0: d = the element of largest magnitude / -8
//               (-16), code = trunc(x / d + 8.5); q4_1, q5_1: d = (max - min) / 15 (31), code =
//               trunc((x - min) / d + 0.5); q8_0: d = max|x| / 127, code = round(x / d), halves away from
//               zero. x / d is x * (1 / d) in float32; the code takes d before it is rounded to f16.
#pragma once

#include "core/dtype.h"

namespace lanner {

// Formats that quantize() makes.
constexpr bool can_quantize(Format f) { return f <= Format::Q8_0; }

}  // namespace lanner
