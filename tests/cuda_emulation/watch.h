// What looks at the device's work. One of three is linked: checks.cpp, which judges each access by itself, or
// address_sanitizer.cpp or thread_sanitizer.cpp, which tell a sanitizer what there is to know and leave the judgement
// to it. How the kernels' own accesses reach it stands in access.h.
#pragma once

#include <stddef.h>

#include "runtime.h"

namespace emulation::watch {

void launch_begins(const Translated& kernel, uint32_t blocks, uint32_t threads);
void launch_ends();

// The block's shared memory, full of NaN; the block's threads begin after it.
char* block_begins();

// A thread's first and last act. Both run on the thread's own fibre.
void thread_begins(Thread& thread);
void thread_ends(Thread& thread);

// Just before the operating system's thread goes over to a fibre, and back to the scheduler.
void goes_to(const Thread& thread);
void goes_back();

// bar.sync 0: on each thread's fibre before it waits and after; and once between, when all have come.
void barrier_reached(Thread& thread);
void barrier_complete();
void barrier_left(Thread& thread);

// bar.warp.sync: the same for a warp. `generation` rises with each barrier or shuffle of the warp.
void warp_barrier_reached(Thread& thread, uint32_t warp, uint32_t generation);
void warp_barrier_left(Thread& thread, uint32_t warp, uint32_t generation);

// A range of global memory that the kernels may use; and that all are forgotten.
void allow(uint64_t begin, uint64_t bytes, bool writable);
void forget();

}  // namespace emulation::watch

namespace emulation {

// Notes the first report and never returns to the kernel.
[[noreturn]] void fail(Thread& thread, const char* what);

// Of what runs now.
const Translated& running_kernel();
uint32_t launch_number();

}  // namespace emulation
