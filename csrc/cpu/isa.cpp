// Compiled once per instruction set with its own flags; exports one table of kernels.
#include "cpu/activations.h"
#include "cpu/adjust.h"
#include "cpu/append.h"
#include "cpu/attention.h"
#include "cpu/dequantize.h"
#include "cpu/elementwise.h"
#include "cpu/experts.h"
#include "cpu/gate_up.h"
#include "cpu/head_norm.h"
#include "cpu/layer_norm.h"
#include "cpu/linear.h"
#include "cpu/pack.h"
#include "cpu/probe.h"
#include "cpu/qk_norm.h"
#include "cpu/quantize.h"
#include "cpu/rope.h"
#include "cpu/rope_append.h"
#include "cpu/route.h"
#include "cpu/rows.h"
#include "cpu/sample.h"
#include "cpu/sdpa.h"
#include "cpu/softmax.h"
#include "cpu/topk.h"
#include "ops/table.h"

namespace lanner::LANNER_ISA_NS {
namespace {

template <class Args, void (*kernel)(const Args&, const Step&, const Worker&, int, int)>
void erased(const void* args, const Step& step, const Worker& worker, int begin, int end) {
  kernel(*static_cast<const Args*>(args), step, worker, begin, end);
}

#define LANNER_TEXT(x) #x
#define LANNER_NAME(x) LANNER_TEXT(x)

}  // namespace

extern const CpuTable table;
const CpuTable table = {
    LANNER_NAME(LANNER_ISA_NS),
#define LANNER_KERNEL(op, Args) erased<Args, op>,
    LANNER_OPS(LANNER_KERNEL)
#undef LANNER_KERNEL
        pack,
    unpack_row,
    {sum_chunks, merge_chunks, write_chunks, log_sum, rms_norm_rows, layer_norm_rows, rope_rows, activate,
     top_k, adjust},
    {sdpa_strip, sdpa_chunk, sdpa_merge},
    dequantize,
    quantize,
    probe_read,
    probe_copy,
    probe_fma,
};

}  // namespace lanner::LANNER_ISA_NS
