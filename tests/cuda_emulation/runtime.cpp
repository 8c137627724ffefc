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

namespace emulation {
namespace {

constexpr size_t kStackBytes = 256 * 1024;
constexpr uint32_t kWarp = 32;
constexpr uint32_t kNobody = 0xffffffffu;

// ---- Reports ----------------------------------------------------------------------------------------------

std::string report;  // the first one of a run; empty where all is well
bool stopped = false;

// ---- Global memory ----------------------------------------------------------------------------------------

// Who touched a word last, and since which barrier of its block.
struct Touch {
  uint32_t launch = 0;
  uint32_t block = 0;
  uint32_t thread = kNobody;
  uint32_t epoch = 0;
};

struct Range {
  uint64_t begin, end;
  bool writable;
  std::vector<Touch> writers;  // one a 4-byte word, where writable
  uint64_t bytes_read = 0, bytes_written = 0;
};

std::map<uint64_t, Range> ranges;  // by begin
Range* latest = nullptr;
uint32_t launches = 0;

enum class Order { kForward, kReverse, kShuffled };
Order order = Order::kForward;

}  // namespace

// ---- Blocks -----------------------------------------------------------------------------------------------

enum class State { kReady, kBarrier, kShuffle, kDone };

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

struct SharedTouch {
  uint32_t write_epoch = 0, writer = kNobody;
  uint32_t read_epoch = 0, reader = kNobody;  // kNobody - 1: several
  bool atomic = false;
};

struct Block {
  const Translated* kernel = nullptr;
  std::vector<std::unique_ptr<Fibre>> fibres;
  std::vector<Warp> warps;
  std::vector<char> memory;
  std::vector<SharedTouch> touches;
  ucontext_t scheduler;
  uint32_t epoch = 0;  // rises at each barrier and each block
  uint32_t threads = 0;
  uint32_t index = 0;
};

namespace {

Block device;

Fibre& fibre_of(Thread& thread) { return *device.fibres[thread.tid_x]; }

void yield(Thread& thread) { swapcontext(&fibre_of(thread).context, &device.scheduler); }

// Notes the first report and never returns to the kernel.
[[noreturn]] void fail(Thread& thread, const std::string& what) {
  if (report.empty()) {
    report = std::string(device.kernel->name) + " block " + std::to_string(thread.ctaid_x) + " thread " +
             std::to_string(thread.tid_x) + ": " + what;
  }
  stopped = true;
  for (;;) yield(thread);
}

void check_alignment(Thread& thread, uint64_t address, uint32_t bytes, const char* where) {
  if (address % bytes != 0) {
    fail(thread, "misaligned access of " + std::to_string(bytes) + " bytes in " + where + " memory");
  }
}

Range* range_of(uint64_t address, uint32_t bytes) {
  if (latest && address >= latest->begin && address + bytes <= latest->end) return latest;
  auto after = ranges.upper_bound(address);
  if (after == ranges.begin()) return nullptr;
  Range& found = std::prev(after)->second;
  if (address + bytes > found.end) return nullptr;
  return latest = &found;
}

}  // namespace

void* global(Thread& thread, uint64_t address, uint32_t bytes, Access access) {
  check_alignment(thread, address, bytes, "global");
  Range* range = range_of(address, bytes);
  if (!range) fail(thread, "access outside of global memory");
  if (access != Access::kRead && !range->writable) fail(thread, "write to read-only global memory");
  (access == Access::kRead ? range->bytes_read : range->bytes_written) += bytes;
  if (range->writable) {
    const uint64_t first = (address - range->begin) / 4, last = (address - range->begin + bytes - 1) / 4;
    for (uint64_t word = first; word <= last; ++word) {
      Touch& touch = range->writers[word];
      const bool other_block = touch.block != thread.ctaid_x;
      const bool other_thread = touch.thread != thread.tid_x && touch.epoch == device.epoch;
      if (touch.thread != kNobody && touch.launch == launches && (other_block || other_thread)) {
        fail(thread, other_block ? "race with another block in global memory" : "race in global memory");
      }
      if (access != Access::kRead) touch = {launches, thread.ctaid_x, thread.tid_x, device.epoch};
    }
  }
  return reinterpret_cast<void*>(address);
}

void* shared(Thread& thread, uint64_t address, uint32_t bytes, Access access) {
  check_alignment(thread, address, bytes, "shared");
  if (address + bytes > device.kernel->shared_bytes) fail(thread, "access outside of shared memory");
  const uint32_t epoch = device.epoch, self = thread.tid_x;
  for (uint64_t byte = address; byte < address + bytes; ++byte) {
    SharedTouch& touch = device.touches[byte];
    const bool both_atomic = access == Access::kAtomic && touch.atomic;
    const bool written = touch.write_epoch == epoch && touch.writer != self && !both_atomic;
    const bool read = access != Access::kRead && touch.read_epoch == epoch && touch.reader != self;
    if (written || read) fail(thread, "race in shared memory");
    if (access == Access::kRead) {
      const bool shared_already = touch.read_epoch == epoch && touch.reader != self;
      touch.read_epoch = epoch, touch.reader = shared_already ? kNobody - 1 : self;
    } else {
      const bool several = touch.write_epoch == epoch && touch.writer != self;
      touch.write_epoch = epoch, touch.writer = several ? kNobody - 1 : self;
      touch.atomic = access == Access::kAtomic;
    }
  }
  return device.memory.data() + address;
}

void barrier(Thread& thread, uint32_t place) {
  Fibre& fibre = fibre_of(thread);
  fibre.state = State::kBarrier;
  fibre.place = place;
  yield(thread);
}

uint32_t shuffle(Thread& thread, char mode, uint32_t value, uint32_t distance, uint32_t clamp, uint32_t mask,
                 uint32_t place, bool* valid) {
  if (mask != 0xffffffffu) fail(thread, "shuffle of part of a warp");
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
      if (other.state == State::kShuffle) other.state = State::kReady;
    }
  }
  while (warp.generation == generation) {
    self.state = State::kShuffle;
    yield(thread);
  }
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
  return warp.values[generation % 2][inside ? source : lane];
}

namespace {

void fibre_main(uint32_t tid) {
  Fibre& fibre = *device.fibres[tid];
  device.kernel->run(fibre.thread);
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
    ++device.epoch;
    for (uint32_t tid = 0; tid < device.threads; ++tid) device.fibres[tid]->state = State::kReady;
  }
}

void run_grid(const Translated& kernel, uint32_t blocks, uint32_t threads, void** arguments) {
  if (stopped) return;
  std::vector<char> parameters(kernel.parameter_offsets[kernel.parameter_count] + 16);
  for (uint32_t place = 0; place < kernel.parameter_count; ++place) {
    const uint32_t begin = kernel.parameter_offsets[place], end = kernel.parameter_offsets[place + 1];
    memcpy(parameters.data() + begin, arguments[place], end - begin);
  }
  ++launches;
  device.kernel = &kernel;
  device.threads = threads;
  device.warps.assign((threads + kWarp - 1) / kWarp, Warp{});
  device.touches.assign(kernel.shared_bytes, SharedTouch{});
  device.memory.resize(kernel.shared_bytes);
  while (device.fibres.size() < threads) device.fibres.push_back(std::make_unique<Fibre>());
  for (const uint32_t block : in_order(blocks, blocks)) {
    device.index = block;
    ++device.epoch;
    std::fill(device.memory.begin(), device.memory.end(), '\xff');
    for (uint32_t tid = 0; tid < threads; ++tid) {
      device.fibres[tid]->thread = {tid,   block, threads, blocks, reinterpret_cast<uint64_t>(parameters.data()),
                                    &device};
      start_fibre(*device.fibres[tid], tid);
    }
    if (!run_block()) {
      stopped = true;
      return;
    }
  }
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
  throw std::runtime_error(std::string("no translated kernel ") + name);
}

}  // namespace
}  // namespace emulation

using namespace emulation;

extern "C" {

// What the tests call.
void emulation_allow(uint64_t begin, uint64_t bytes, int writable) {
  Range& range = ranges[begin];
  range = {begin, begin + bytes, writable != 0, {}, 0, 0};
  if (writable) range.writers.resize(bytes / 4 + 1);
  latest = nullptr;
}
void emulation_reset(int new_order) {
  ranges.clear();
  latest = nullptr;
  report.clear();
  stopped = false;
  order = static_cast<Order>(new_order);
}
// Bytes that kernels read, or wrote, in the memory that begins at `begin`.
uint64_t emulation_traffic(uint64_t begin, int written) {
  const Range& range = ranges.at(begin);
  return written ? range.bytes_written : range.bytes_read;
}
const char* emulation_report() { return report.c_str(); }
int emulation_launches() { return static_cast<int>(launches); }

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
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<Translated*>(registered().at(host)));
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
