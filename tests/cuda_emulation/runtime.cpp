// The device, and a stand-in for the part of CUDA's runtime that nvcc's host code calls.
#include "runtime.h"

#include <cuda_runtime_api.h>
#include <ucontext.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "watch.h"

namespace emulation {
namespace {

constexpr size_t kStackBytes = 512 * 1024;
constexpr uint32_t kWarp = 32;

std::string report;  // the first one of a run; empty where all is well
bool stopped = false;
uint32_t launches = 0;

enum class Order { kForward, kReverse, kShuffled };
Order order = Order::kForward;

// ---- Blocks -----------------------------------------------------------------------------------------------

enum class State { kReady, kBarrier, kWarp, kDone };

struct Fibre {
  Thread thread;
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  State state = State::kReady;
  uint32_t place = 0;  // of the barrier or shuffle it waits at
};

struct Warp {
  uint32_t values[2][kWarp];
  uint32_t arrived = 0;
  uint32_t generation = 0;
};

struct Block {
  const Translated* kernel = nullptr;
  std::vector<std::unique_ptr<Fibre>> fibres;
  std::vector<Warp> warps;
  ucontext_t scheduler;
  uint32_t threads = 0;
  uint32_t index = 0;
};

Block device;

Fibre& fibre_of(Thread& thread) { return *device.fibres[thread.tid_x]; }

void yield(Thread& thread) {
  watch::goes_back();
  swapcontext(&fibre_of(thread).context, &device.scheduler);
}

// Waits for all lanes of the warp, at one place of the program; `value` is this lane's to give. The generation that
// was completed.
uint32_t meet_warp(Thread& thread, uint32_t value, uint32_t mask, uint32_t place) {
  if (mask != 0xffffffffu) fail(thread, "shuffle or barrier of part of a warp");
  Warp& warp = device.warps[thread.tid_x / kWarp];
  const uint32_t lane = thread.tid_x % kWarp, generation = warp.generation;
  for (uint32_t each = 0; each < kWarp; ++each) {
    Fibre& other = *device.fibres[thread.tid_x / kWarp * kWarp + each];
    if (warp.arrived >> each & 1 && other.place != place) fail(thread, "lanes of a warp at different shuffles");
  }
  Fibre& self = fibre_of(thread);
  self.place = place;
  warp.values[generation % 2][lane] = value;
  warp.arrived |= 1u << lane;
  if (warp.arrived == 0xffffffffu) {
    warp.arrived = 0;
    ++warp.generation;
    for (uint32_t each = 0; each < kWarp; ++each) {
      Fibre& other = *device.fibres[thread.tid_x / kWarp * kWarp + each];
      if (other.state == State::kWarp) other.state = State::kReady;
    }
  }
  while (warp.generation == generation) {
    self.state = State::kWarp;
    yield(thread);
  }
  return generation;
}

}  // namespace

void fail(Thread& thread, const char* what) {
  if (report.empty()) {
    report = std::string(device.kernel->name) + " block " + std::to_string(thread.ctaid_x) + " thread " +
             std::to_string(thread.tid_x) + ": " + what;
  }
  stopped = true;
  for (;;) yield(thread);
}

const Translated& running_kernel() { return *device.kernel; }
uint32_t launch_number() { return launches; }

void barrier(Thread& thread, uint32_t place) {
  watch::barrier_reached(thread);
  Fibre& fibre = fibre_of(thread);
  fibre.state = State::kBarrier;
  fibre.place = place;
  yield(thread);
  watch::barrier_left(thread);
}

void warp_barrier(Thread& thread, uint32_t mask, uint32_t place) {
  const uint32_t warp = thread.tid_x / kWarp, generation = device.warps[warp].generation;
  watch::warp_barrier_reached(thread, warp, generation);
  meet_warp(thread, 0, mask, place);
  watch::warp_barrier_left(thread, warp, generation);
}

// A shuffle exchanges values and orders no memory: no sanitizer is told of it.
uint32_t shuffle(Thread& thread, char mode, uint32_t value, uint32_t distance, uint32_t clamp, uint32_t mask,
                 uint32_t place, bool* valid) {
  const uint32_t lane = thread.tid_x % kWarp;
  const uint32_t* values = device.warps[thread.tid_x / kWarp].values[meet_warp(thread, value, mask, place) % 2];
  // PTX: c holds the clamp in bits 0-4 and the segment's mask in bits 8-12.
  const uint32_t bound = clamp & 31, segment = clamp >> 8 & 31;
  const uint32_t most = (lane & segment) | (bound & ~segment), least = lane & segment;
  int source = 0;
  bool inside = false;
  if (mode == 'u') {
    source = static_cast<int>(lane) - static_cast<int>(distance & 31);
    inside = source >= static_cast<int>(most);
  } else if (mode == 'd') {
    source = static_cast<int>(lane + (distance & 31));
    inside = source <= static_cast<int>(most);
  } else if (mode == 'b') {
    source = static_cast<int>(lane ^ (distance & 31));
    inside = source <= static_cast<int>(most);
  } else {
    source = static_cast<int>(least | (distance & 31 & ~segment));
    inside = source <= static_cast<int>(most);
  }
  *valid = inside;
  return values[inside ? source : lane];
}

namespace {

void fibre_main(uint32_t tid) {
  Fibre& fibre = *device.fibres[tid];
  fibre.context.uc_stack.ss_size = 0;  // AddressSanitizer forgets as much of the stack at each switch to it
  watch::thread_begins(fibre.thread);
  device.kernel->run(fibre.thread);
  watch::thread_ends(fibre.thread);
  fibre.state = State::kDone;
  for (;;) yield(fibre.thread);
}

void start_fibre(Fibre& fibre, uint32_t tid) {
  getcontext(&fibre.context);
  fibre.context.uc_stack.ss_sp = fibre.stack.get();
  fibre.context.uc_stack.ss_size = kStackBytes;
  fibre.context.uc_link = nullptr;
  makecontext(&fibre.context, reinterpret_cast<void (*)()>(fibre_main), 1, tid);
  fibre.state = State::kReady;
}

std::vector<uint32_t> in_order(uint32_t count, uint32_t seed) {
  std::vector<uint32_t> places(count);
  for (uint32_t place = 0; place < count; ++place) places[place] = place;
  if (order == Order::kReverse) std::reverse(places.begin(), places.end());
  if (order == Order::kShuffled) std::shuffle(places.begin(), places.end(), std::mt19937(seed));
  return places;
}

// Runs the block's fibres until all are done; false after a report.
bool run_block() {
  const std::vector<uint32_t> turns = in_order(device.threads, device.index);
  for (;;) {
    uint32_t ran = 0;
    for (const uint32_t tid : turns) {
      Fibre& fibre = *device.fibres[tid];
      if (fibre.state != State::kReady) continue;
      ++ran;
      watch::goes_to(fibre.thread);
      swapcontext(&device.scheduler, &fibre.context);
      if (stopped) return false;
    }
    if (ran) continue;
    uint32_t waiting = 0, done = 0, same = 0;
    for (uint32_t tid = 0; tid < device.threads; ++tid) {
      const Fibre& fibre = *device.fibres[tid];
      waiting += fibre.state == State::kBarrier;
      done += fibre.state == State::kDone;
      same += fibre.state == State::kBarrier && fibre.place == device.fibres[0]->place;
    }
    if (done == device.threads) return true;
    if (waiting != device.threads || same != device.threads) {
      report = std::string(device.kernel->name) + ": divergent barrier or shuffle: " + std::to_string(waiting) + " of " +
               std::to_string(device.threads) + " threads wait at a barrier, " + std::to_string(done) + " are done";
      return false;
    }
    watch::barrier_complete();
    for (uint32_t tid = 0; tid < device.threads; ++tid) device.fibres[tid]->state = State::kReady;
  }
}

void run_grid(const Translated& kernel, uint32_t blocks, uint32_t threads, void** arguments) {
  if (stopped) return;
  std::vector<char> parameters(kernel.parameter_offsets[kernel.parameter_count]);
  for (uint32_t place = 0; place < kernel.parameter_count; ++place) {
    const uint32_t begin = kernel.parameter_offsets[place], end = kernel.parameter_offsets[place + 1];
    memcpy(parameters.data() + begin, arguments[place], end - begin);
  }
  ++launches;
  device.kernel = &kernel;
  device.threads = threads;
  device.warps.assign((threads + kWarp - 1) / kWarp, Warp{});
  while (device.fibres.size() < threads) device.fibres.push_back(std::make_unique<Fibre>());
  watch::launch_begins(kernel, blocks, threads);
  for (const uint32_t block : in_order(blocks, blocks)) {
    device.index = block;
    char* shared_memory = watch::block_begins();
    for (uint32_t tid = 0; tid < threads; ++tid) {
      device.fibres[tid]->thread = {tid,    block,
                                    threads, blocks,
                                    reinterpret_cast<uint64_t>(parameters.data()), shared_memory};
      start_fibre(*device.fibres[tid], tid);
    }
    if (!run_block()) {
      stopped = true;
      return;
    }
  }
  watch::launch_ends();
}

// ---- The runtime's registration and launch ----------------------------------------------------------------

// Made at its first use: nvcc's objects register their kernels before this file's own variables are made.
std::map<const void*, const Translated*>& registered() {
  static std::map<const void*, const Translated*> kernels;
  return kernels;
}

dim3 pending_grid, pending_block;

const Translated* find_kernel(const char* name) {
  for (int place = 0; place < kKernelCount; ++place) {
    if (strcmp(kKernels[place].name, name) == 0) return &kKernels[place];
  }
  return nullptr;  // left out of this build: an error where it is launched
}

}  // namespace
}  // namespace emulation

using namespace emulation;

extern "C" {

// What the tests call.
void emulation_allow(uint64_t begin, uint64_t bytes, int writable) { watch::allow(begin, bytes, writable != 0); }
void emulation_reset(int new_order) {
  watch::forget();
  report.clear();
  stopped = false;
  order = static_cast<Order>(new_order);
}
const char* emulation_report() { return report.c_str(); }

// What nvcc's host code calls.
void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
  registered()[host] = find_kernel(name);
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
  const Translated* found = registered().at(host);
  if (found == nullptr) throw std::runtime_error("a kernel that this build leaves out is launched");
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<Translated*>(found));
  return cudaSuccess;
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t, cudaStream_t) {
  pending_grid = grid, pending_block = block;
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* dynamic, void* stream) {
  *grid = pending_grid, *block = pending_block, *dynamic = 0, *static_cast<void**>(stream) = nullptr;
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t, cudaStream_t) {
  run_grid(*reinterpret_cast<const Translated*>(kernel), grid.x, block.x, arguments);
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device_index) {
  *device_index = 0;
  return cudaSuccess;
}
// A device of one processor: kernels must loop over what their few blocks do not cover at once.
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 1;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
}
