// What ThreadSanitizer must know: which fibre runs, and what orders what. Nothing else does: switches are announced
// without an order, and neither this file nor the runtime is instrumented.
//
// A launch comes after the one before it. Its blocks are ordered by nothing; a block's threads by bar.sync, a warp's
// by bar.warp.sync, and two threads of any blocks by fence, atomic, atomic, fence, as PTX's memory model has it.
#include <sanitizer/tsan_interface.h>
#include <stdlib.h>

#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "access.h"
#include "watch.h"

namespace emulation {
namespace {

// ThreadSanitizer has room for some 8000 fibres. Block b takes the fibres of block b - kBlocksApart, and is then
// ordered after it; which blocks these are differs with the order in which blocks run.
constexpr uint32_t kBlocksApart = 24;

using Sync = uint64_t;  // its address tells an order

void* scheduler_fibre = nullptr;
std::vector<std::vector<void*>> block_fibres;  // kept alive: a dead one's accesses would be forgotten

// A fibre that stands for a thread at one moment: it knows what the thread knew there, and tells it later.
struct Witness {
  void* fibre = __tsan_create_fiber(0);
  Sync in, out;
};

// A thread's fences. `fenced` knows what the thread had done at its last fence; `observed` what the threads had done
// whose atomics this thread has met since.
struct Fences {
  std::unique_ptr<Witness> fenced, observed;
};

struct RunningBlock {
  std::vector<void*>* fibres;
  Sync barriers[2];  // by turns: one who is through the first must not be taken for one who waits at it
  uint32_t generation = 0;
  std::map<std::pair<uint32_t, uint32_t>, Sync> warp_barriers;  // by warp and generation
  std::vector<Fences> fences;
  std::unique_ptr<char[]> shared_memory;
};

std::deque<RunningBlock> blocks_of_launch;  // all kept: their addresses must not be used again
std::map<void*, Sync> atomics_of_launch;    // what is known to who meets an atomic at an address
uint32_t threads_of_launch = 0;
Sync launch_start, launch_end;

RunningBlock& block() { return blocks_of_launch.back(); }
void* fibre_of(const Thread& thread) { return (*block().fibres)[thread.tid_x]; }
void switch_to(void* fibre) { __tsan_switch_to_fiber(fibre, __tsan_switch_to_fiber_no_sync); }

}  // namespace

// Release pattern: what came before the fence goes with the thread's later atomics; acquire pattern: what went with
// the atomics that it met before the fence is known after it.
void fence(Thread& thread) {
  Fences& fences = block().fences[thread.tid_x];
  if (fences.observed) __tsan_acquire(&fences.observed->out);
  if (!fences.fenced) fences.fenced = std::make_unique<Witness>();
  __tsan_release(&fences.fenced->in);
  switch_to(fences.fenced->fibre);
  __tsan_acquire(&fences.fenced->in);
  switch_to(fibre_of(thread));
}

void atomic_done(Thread& thread, void* at) {
  Fences& fences = block().fences[thread.tid_x];
  Sync& known = atomics_of_launch[at];
  if (!fences.observed) fences.observed = std::make_unique<Witness>();
  switch_to(fences.observed->fibre);
  __tsan_acquire(&known);
  __tsan_release(&fences.observed->out);
  if (fences.fenced) {
    switch_to(fences.fenced->fibre);
    __tsan_release(&known);
  }
  switch_to(fibre_of(thread));
}

namespace watch {

void launch_begins(const Translated&, uint32_t, uint32_t threads) {
  threads_of_launch = threads;
  if (!scheduler_fibre) scheduler_fibre = __tsan_get_current_fiber();
  __tsan_release(&launch_start);
}

void launch_ends() {
  __tsan_acquire(&launch_end);
  blocks_of_launch.clear();
  atomics_of_launch.clear();
}

char* block_begins() {
  const size_t place = blocks_of_launch.size() % kBlocksApart;
  if (place == block_fibres.size()) block_fibres.emplace_back();
  std::vector<void*>& fibres = block_fibres[place];
  while (fibres.size() < threads_of_launch) fibres.push_back(__tsan_create_fiber(0));
  const uint32_t bytes = running_kernel().shared_bytes;
  RunningBlock& begun = blocks_of_launch.emplace_back();
  begun.fibres = &fibres;
  begun.fences.resize(threads_of_launch);
  begun.shared_memory.reset(new char[bytes]);
  // Byte by byte: memset is watched by ThreadSanitizer, even from code that it did not instrument.
  for (volatile char* byte = begun.shared_memory.get(); byte < begun.shared_memory.get() + bytes; ++byte) *byte = '\xff';
  __tsan_release(&launch_start);
  return begun.shared_memory.get();
}

void thread_begins(Thread&) { __tsan_acquire(&launch_start); }
void thread_ends(Thread&) { __tsan_release(&launch_end); }
void goes_to(const Thread& thread) { switch_to(fibre_of(thread)); }
void goes_back() { switch_to(scheduler_fibre); }

void barrier_reached(Thread&) { __tsan_release(&block().barriers[block().generation % 2]); }
void barrier_complete() { ++block().generation; }
void barrier_left(Thread&) { __tsan_acquire(&block().barriers[(block().generation + 1) % 2]); }

void warp_barrier_reached(Thread&, uint32_t warp, uint32_t generation) {
  __tsan_release(&block().warp_barriers[{warp, generation}]);
}
void warp_barrier_left(Thread&, uint32_t warp, uint32_t generation) {
  __tsan_acquire(&block().warp_barriers[{warp, generation}]);
}

void allow(uint64_t, uint64_t, bool) {}
void forget() {}

}  // namespace watch
}  // namespace emulation
