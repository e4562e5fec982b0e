#include "core/places.h"

#ifdef __linux__
#include <sched.h>
#endif

namespace lanner {

int current_processor() {
#ifdef __linux__
  return sched_getcpu();
#else
  return -1;
#endif
}

bool Places::are_shared(int self, int n) const {
  const int processor = current_processor();
  for (int i = 0; i < n; ++i)
    if (i != self && processor >= 0 && places_[i].processor.load(std::memory_order_relaxed) == processor)
      return true;
  return false;
}

void Places::leave([[maybe_unused]] int self, [[maybe_unused]] int n) {
#ifdef __linux__
  cpu_set_t allowed;  // of 1024 processors; where there are more, the call fails and the thread stays
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  cpu_set_t free = allowed;
  for (int i = 0; i < n; ++i) {
    const int processor = places_[i].processor.load(std::memory_order_relaxed);
    if (i != self && processor >= 0 && processor < CPU_SETSIZE) CPU_CLR(processor, &free);
  }
  if (CPU_COUNT(&free) == 0 || sched_setaffinity(0, sizeof(free), &free) != 0) return;
  sched_setaffinity(0, sizeof(allowed), &allowed);
  if (self >= 0) note(self);
#endif
}

}  // namespace lanner
