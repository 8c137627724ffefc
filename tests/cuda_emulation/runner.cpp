// A process of its own for the emulated device, so that a sanitizer watches the kernels and nothing else. Commands,
// a line each, come by standard input; the reply to a call goes to standard output. sanitizers.py is its one user.
//
//   order N                       forget every buffer; 0 forward, 1 reverse, 2 shuffled
//   buffer BYTES SHIFT WRITABLE   and then the bytes: global memory that begins SHIFT behind a multiple of 16
//   call NAME ARGUMENT...         an argument is a number, or a buffer's place, -1 for none
//
// The reply: the status, the length of the report, a line's end, the report, and every writable buffer.
#include "runner.h"

#include <sanitizer/asan_interface.h>
#include <stdio.h>
#include <stdlib.h>

#include <vector>

extern "C" {
void emulation_allow(uint64_t begin, uint64_t bytes, int writable);
void emulation_reset(int order);
const char* emulation_report();
}

namespace runner {
namespace {

// An allocation of its own behind `shift` other bytes, so that its end is known to the byte.
struct Buffer {
  char* allocated;
  char* begin;
  size_t bytes;
  bool writable;
};

std::vector<Buffer> buffers;

void forget() {
  for (const Buffer& buffer : buffers) free(buffer.allocated);
  buffers.clear();
}

void take_buffer() {
  const int64_t bytes = next_integer(), shift = next_integer(), writable = next_integer();
  char* allocated = static_cast<char*>(malloc(shift + bytes));
  if (getchar() != '\n') refuse("a buffer has no line of its own");
  if (fread(allocated + shift, 1, bytes, stdin) != static_cast<size_t>(bytes)) refuse("a buffer ends early");
  ASAN_POISON_MEMORY_REGION(allocated, shift);  // in steps of 8 bytes
  buffers.push_back({allocated, allocated + shift, static_cast<size_t>(bytes), writable != 0});
  emulation_allow(reinterpret_cast<uint64_t>(allocated + shift), bytes, static_cast<int>(writable));
}

void reply(int status) {
  const std::string report = emulation_report();
  printf("%d %zu\n%s", status, report.size(), report.c_str());
  for (const Buffer& buffer : buffers) {
    if (buffer.writable) fwrite(buffer.begin, 1, buffer.bytes, stdout);
  }
  fflush(stdout);
}

}  // namespace

void refuse(const std::string& what) {
  fprintf(stderr, "runner: %s\n", what.c_str());
  exit(2);
}

std::string next_word() {
  char word[256];
  if (scanf("%255s", word) != 1) refuse("a command ends early");
  return word;
}

int64_t next_integer() { return strtoll(next_word().c_str(), nullptr, 10); }
double next_double() { return strtod(next_word().c_str(), nullptr); }

char* next_buffer() {
  const int64_t place = next_integer();
  return place < 0 ? nullptr : buffers.at(place).begin;
}

}  // namespace runner

int main() {
  char word[256];
  while (scanf("%255s", word) == 1) {
    const std::string command = word;
    if (command == "order") {
      runner::forget();
      emulation_reset(static_cast<int>(runner::next_integer()));
    } else if (command == "buffer") {
      runner::take_buffer();
    } else if (command == "call") {
      runner::reply(runner::call(runner::next_word()));
    } else {
      runner::refuse("no command " + command);
    }
  }
  runner::forget();
  return 0;
}
