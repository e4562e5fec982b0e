// Compiled once per instruction set with its own flags; exports one table of kernels.
#include "cpu/attention.h"
#include "cpu/gate_up.h"
#include "cpu/linear.h"
#include "cpu/pack.h"
#include "cpu/probe.h"
#include "cpu/rope_append.h"
#include "cpu/rows.h"
#include "cpu/sample.h"
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
    probe_read,
    probe_fma,
};

}  // namespace lanner::LANNER_ISA_NS
