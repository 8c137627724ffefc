// The device's own judgement of each access, as CUDA's memory model has it, without a sanitizer.
//
// Reported: an access outside the memory that was allowed or outside the block's shared variables, a misaligned
// access, two threads that touch one shared word without a barrier between them, and two blocks, or two threads
// without a barrier, that touch one global word, where one of the two writes.
#include <map>
#include <string>
#include <vector>

#include "access.h"
#include "watch.h"

namespace emulation {
namespace {

constexpr uint32_t kNobody = 0xffffffffu;

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

struct SharedTouch {
  uint32_t write_epoch = 0, writer = kNobody;
  uint32_t read_epoch = 0, reader = kNobody;  // kNobody - 1: several
  bool atomic = false;
};

std::vector<SharedTouch> touches;
std::vector<char> shared_memory;
uint32_t epoch = 0;  // rises at each barrier and each block

void check_alignment(Thread& thread, uint64_t address, uint32_t bytes, const char* where) {
  if (address % bytes != 0) {
    fail(thread, ("misaligned access of " + std::to_string(bytes) + " bytes in " + where + " memory").c_str());
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

bool is_shared(uint64_t address, uint32_t bytes) {
  for (uint32_t place = 0; place < running_kernel().shared_count; ++place) {
    const SharedVariable& variable = running_kernel().shared_variables[place];
    if (address >= variable.begin && address + bytes <= variable.end) return true;
  }
  return false;
}

}  // namespace

void* checked_global(Thread& thread, uint64_t address, uint32_t bytes, Access access) {
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
      const bool other_thread = touch.thread != thread.tid_x && touch.epoch == epoch;
      if (touch.thread != kNobody && touch.launch == launch_number() && (other_block || other_thread)) {
        fail(thread, other_block ? "race with another block in global memory" : "race in global memory");
      }
      if (access != Access::kRead) touch = {launch_number(), thread.ctaid_x, thread.tid_x, epoch};
    }
  }
  return reinterpret_cast<void*>(address);
}

void* checked_shared(Thread& thread, uint64_t address, uint32_t bytes, Access access) {
  check_alignment(thread, address, bytes, "shared");
  if (!is_shared(address, bytes)) fail(thread, "access outside of shared memory");
  const uint32_t self = thread.tid_x;
  for (uint64_t byte = address; byte < address + bytes; ++byte) {
    SharedTouch& touch = touches[byte];
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
  return shared_memory.data() + address;
}

// The order that a fence gives is ThreadSanitizer's to judge; here it would go unseen and be reported as a race.
void fence(Thread& thread) { fail(thread, "a fence: only ThreadSanitizer follows it"); }

namespace watch {

void launch_begins(const Translated& kernel, uint32_t, uint32_t) {
  touches.assign(kernel.shared_bytes, SharedTouch{});
  shared_memory.resize(kernel.shared_bytes);
}
void launch_ends() {}
char* block_begins() {
  ++epoch;
  std::fill(shared_memory.begin(), shared_memory.end(), '\xff');
  return shared_memory.data();
}
void thread_begins(Thread&) {}
void thread_ends(Thread&) {}
void goes_to(const Thread&) {}
void goes_back() {}
void barrier_reached(Thread&) {}
void barrier_complete() { ++epoch; }
void barrier_left(Thread&) {}
void warp_barrier_reached(Thread& thread, uint32_t, uint32_t) {
  fail(thread, "a barrier of a warp: only ThreadSanitizer follows it");
}
void warp_barrier_left(Thread&, uint32_t, uint32_t) {}

void allow(uint64_t begin, uint64_t bytes, bool writable) {
  Range& range = ranges[begin];
  range = {begin, begin + bytes, writable, {}, 0, 0};
  if (writable) range.writers.resize(bytes / 4 + 1);
  latest = nullptr;
}
void forget() {
  ranges.clear();
  latest = nullptr;
}

}  // namespace watch
}  // namespace emulation

// Bytes that kernels read, or wrote, in the memory that begins at `begin`.
extern "C" uint64_t emulation_traffic(uint64_t begin, int written) {
  const emulation::Range& range = emulation::ranges.at(begin);
  return written ? range.bytes_written : range.bytes_read;
}
