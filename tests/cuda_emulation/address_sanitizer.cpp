// What AddressSanitizer must know: shared memory of its own for each block, with poison between its variables.
// Buffers of global memory are the runner's, each an allocation of exactly its size.
#include <sanitizer/asan_interface.h>
#include <stdlib.h>

#include "access.h"
#include "watch.h"

namespace emulation {
namespace {

char* shared_memory = nullptr;

}  // namespace

// Threads of a block take turns only at barriers: there is nothing to order.
void fence(Thread&) {}

namespace watch {

void launch_begins(const Translated&, uint32_t, uint32_t) {}
void launch_ends() {
  free(shared_memory);
  shared_memory = nullptr;
}

char* block_begins() {
  const Translated& kernel = running_kernel();
  free(shared_memory);
  shared_memory = static_cast<char*>(malloc(kernel.shared_bytes));
  memset(shared_memory, 0xff, kernel.shared_bytes);
  for (uint32_t place = 1; place < kernel.shared_count; ++place) {
    const uint32_t begin = kernel.shared_variables[place - 1].end, end = kernel.shared_variables[place].begin;
    ASAN_POISON_MEMORY_REGION(shared_memory + begin, end - begin);
  }
  return shared_memory;
}

void thread_begins(Thread&) {}
void thread_ends(Thread&) {}
void goes_to(const Thread&) {}
void goes_back() {}
void barrier_reached(Thread&) {}
void barrier_complete() {}
void barrier_left(Thread&) {}
void warp_barrier_reached(Thread&, uint32_t, uint32_t) {}
void warp_barrier_left(Thread&, uint32_t, uint32_t) {}
void allow(uint64_t, uint64_t, bool) {}
void forget() {}

}  // namespace watch
}  // namespace emulation
