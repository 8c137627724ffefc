// A CUDA device small enough to read: blocks one after the other, the threads of a block as fibres of one operating
// system thread, every access watched (watch.h). translate.py turns nvcc's PTX into functions over `Thread`.
//
// The device itself reports, and stops at, a barrier that not all threads of the block reach and a shuffle that not
// all lanes reach. Shared memory starts as NaN.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

namespace emulation {

struct Thread {
  uint32_t tid_x;
  uint32_t ctaid_x;
  uint32_t ntid_x;
  uint32_t nctaid_x;
  uint64_t parameters;  // of the launch, on the host
  char* shared_memory;  // of the block, on the host
};

using Kernel = void (*)(Thread&);

// A variable in shared memory; between two of them lies a gap that is nobody's.
struct SharedVariable {
  uint32_t begin, end;
};

// One translated kernel; translate.py writes the array and its end.
struct Translated {
  const char* name;
  Kernel run;
  uint32_t shared_bytes;
  uint32_t shared_count;
  const SharedVariable* shared_variables;
  uint32_t parameter_count;
  const uint32_t* parameter_offsets;  // parameter_count + 1: the last is the size of them all
};
extern const Translated kKernels[];
extern const int kKernelCount;

enum class Access { kRead, kWrite, kAtomic };

void barrier(Thread& thread, uint32_t place);
// bar.warp.sync of all 32 lanes.
void warp_barrier(Thread& thread, uint32_t mask, uint32_t place);
// membar.gl: what __threadfence becomes.
void fence(Thread& thread);
// shfl.sync of all 32 lanes: mode d(own), u(p), b(utterfly), i(ndex).
uint32_t shuffle(Thread& thread, char mode, uint32_t value, uint32_t distance, uint32_t clamp, uint32_t mask,
                 uint32_t place, bool* valid);

template <typename To, typename From>
inline To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "a bit pattern keeps its width");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

template <typename T>
inline T load(const void* from) {
  return *static_cast<const T*>(from);
}

template <typename T>
inline void store(void* to, T value) {
  *static_cast<T*>(to) = value;
}

template <typename T>
inline T shift_left(T value, uint32_t by) {
  return by >= 8 * sizeof(T) ? T{0} : static_cast<T>(value << by);
}

template <typename T>
inline T shift_right(T value, uint32_t by) {
  if (by >= 8 * sizeof(T)) return value < 0 ? static_cast<T>(-1) : T{0};
  return static_cast<T>(value >> by);
}

inline uint32_t funnel_left(uint32_t low, uint32_t high, uint32_t by) {
  return static_cast<uint32_t>(((uint64_t{high} << 32 | low) << (by & 31)) >> 32);
}

inline uint32_t funnel_right(uint32_t low, uint32_t high, uint32_t by) {
  return static_cast<uint32_t>((uint64_t{high} << 32 | low) >> (by & 31));
}

inline uint32_t reversed_bits(uint32_t value) {
  uint32_t reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= (value >> bit & 1u) << (31 - bit);
  return reversed;
}

// bfind.shiftamt: how far left the highest set bit must go.
inline uint32_t find_shift(uint32_t value) { return value == 0 ? 0xffffffffu : __builtin_clz(value); }

inline uint32_t permuted(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  uint32_t made = 0;
  for (int byte = 0; byte < 4; ++byte) {
    const uint32_t choice = selector >> (4 * byte) & 15;
    uint32_t value = bytes >> (8 * (choice & 7)) & 255;
    if (choice & 8) value = value & 128 ? 255 : 0;
    made |= value << (8 * byte);
  }
  return made;
}

inline uint32_t any_logic(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t made = 0;
  for (int row = 0; row < 8; ++row) {
    if (table >> row & 1) made |= (row & 4 ? a : ~a) & (row & 2 ? b : ~b) & (row & 1 ? c : ~c);
  }
  return made;
}

// cvt.rzi of a double (PTX: NaN gives the most negative number, others saturate).
inline int64_t truncated(double value) {
  if (!(value >= -0x1p63)) return INT64_MIN;
  if (value >= 0x1p63) return INT64_MAX;
  return static_cast<int64_t>(value);
}

inline float half_to_float(uint16_t half) {
  const uint32_t exponent = half >> 10 & 31, fraction = half & 1023;
  const double sign = half >> 15 ? -1.0 : 1.0;
  if (exponent == 31) return fraction ? NAN : static_cast<float>(sign * INFINITY);
  if (exponent == 0) return static_cast<float>(sign * ldexp(fraction, -24));
  return static_cast<float>(sign * ldexp(1024 + fraction, static_cast<int>(exponent) - 25));
}

}  // namespace emulation
