#include "cpu/backend.h"

#include <cstdlib>
#include <string>
#include <string_view>

#include "built_isas.h"  // written by CMake: LANNER_BUILT_ISAS(X) is X(avx2) X(baseline)
#include "core/cpu.h"

namespace lanner {

#define LANNER_DECLARE(isa)    \
  namespace isa {              \
  extern const CpuTable table; \
  }
LANNER_BUILT_ISAS(LANNER_DECLARE)
#undef LANNER_DECLARE

namespace {

const CpuTable* built(std::string_view name) {
#define LANNER_MATCH(isa) \
  if (name == isa::table.name) return &isa::table;
  LANNER_BUILT_ISAS(LANNER_MATCH)
#undef LANNER_MATCH
  return nullptr;
}

const CpuTable& choose() {
  const char* forced = std::getenv("LANNER_ISA");
  std::string usable;
  const CpuTable* best = nullptr;
  for (const std::string& name : runnable_isas()) {
    const CpuTable* table = built(name);
    if (!table) continue;
    if (!best) best = table;
    if (forced && name == forced) return *table;
    usable += (usable.empty() ? "" : ", ") + name;
  }
  if (forced && *forced)
    throw DeviceError(cat("LANNER_ISA is '", forced, "', this machine and build can run: ", usable));
  if (!best) throw DeviceError("lanner: this processor lacks SSE4.2, which the baseline needs");
  return *best;
}

}  // namespace

const CpuTable& cpu_table() {
  static const CpuTable& table = choose();
  return table;
}

}  // namespace lanner
