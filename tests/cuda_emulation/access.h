// How a kernel's accesses reach memory: through the device's own checks, or laid open to a sanitizer.
//
// global and shared give the host's address of kBytes bytes. A sanitizer sees each access with the width and in the
// order of nvcc's PTX: AddressSanitizer and UndefinedBehaviorSanitizer through the compiler's instrumentation of this
// header, ThreadSanitizer through explicit calls, so that nothing else of the translated code is on its record.
#pragma once

#include "runtime.h"

#if defined(EMULATION_THREAD_SANITIZER)

extern "C" {
void __tsan_read1(void* at);
void __tsan_read2(void* at);
void __tsan_read4(void* at);
void __tsan_read8(void* at);
void __tsan_read16(void* at);
void __tsan_write1(void* at);
void __tsan_write2(void* at);
void __tsan_write4(void* at);
void __tsan_write8(void* at);
void __tsan_write16(void* at);
int __tsan_atomic32_fetch_add(volatile int* at, int value, int order);
}

namespace emulation {

template <uint32_t kBytes>
inline __attribute__((always_inline)) void* announced(void* at, Access access) {
  static_assert(kBytes == 1 || kBytes == 2 || kBytes == 4 || kBytes == 8 || kBytes == 16, "a width of PTX");
  if (access == Access::kRead) {
    kBytes == 1 ? __tsan_read1(at) : kBytes == 2 ? __tsan_read2(at) : kBytes == 4 ? __tsan_read4(at)
                                 : kBytes == 8 ? __tsan_read8(at) : __tsan_read16(at);
  } else if (access == Access::kWrite) {
    kBytes == 1 ? __tsan_write1(at) : kBytes == 2 ? __tsan_write2(at) : kBytes == 4 ? __tsan_write4(at)
                                  : kBytes == 8 ? __tsan_write8(at) : __tsan_write16(at);
  }
  return at;  // an atomic is announced by the operation itself
}

// An atomic orders nothing by itself; with the fences around it, it does (thread_sanitizer.cpp).
void atomic_done(Thread& thread, void* at);

inline __attribute__((always_inline)) uint32_t atomic_add(Thread& thread, void* at, uint32_t value) {
  constexpr int kRelaxed = 0;
  const uint32_t old = __tsan_atomic32_fetch_add(static_cast<volatile int*>(at), static_cast<int>(value), kRelaxed);
  atomic_done(thread, at);
  return old;
}

template <uint32_t kBytes>
inline __attribute__((always_inline)) void* global(Thread&, uint64_t address, Access access) {
  return announced<kBytes>(reinterpret_cast<void*>(address), access);
}
template <uint32_t kBytes>
inline __attribute__((always_inline)) void* shared(Thread& thread, uint32_t address, Access access) {
  return announced<kBytes>(thread.shared_memory + address, access);
}

}  // namespace emulation

#elif defined(EMULATION_ADDRESS_SANITIZER)

namespace emulation {

// UndefinedBehaviorSanitizer judges the alignment where a member is named, AddressSanitizer the loads and stores.
template <uint32_t kBytes>
struct alignas(kBytes) Aligned {
  char bytes[kBytes];
};

template <uint32_t kBytes>
inline void* global(Thread&, uint64_t address, Access) {
  return reinterpret_cast<Aligned<kBytes>*>(address)->bytes;
}
template <uint32_t kBytes>
inline void* shared(Thread& thread, uint32_t address, Access) {
  return reinterpret_cast<Aligned<kBytes>*>(thread.shared_memory + address)->bytes;
}

inline uint32_t atomic_add(Thread&, void* at, uint32_t value) {
  const uint32_t old = *static_cast<uint32_t*>(at);
  *static_cast<uint32_t*>(at) = old + value;
  return old;
}

}  // namespace emulation

#else

namespace emulation {

void* checked_global(Thread& thread, uint64_t address, uint32_t bytes, Access access);
void* checked_shared(Thread& thread, uint64_t address, uint32_t bytes, Access access);

template <uint32_t kBytes>
inline void* global(Thread& thread, uint64_t address, Access access) {
  return checked_global(thread, address, kBytes, access);
}
template <uint32_t kBytes>
inline void* shared(Thread& thread, uint32_t address, Access access) {
  return checked_shared(thread, address, kBytes, access);
}

inline uint32_t atomic_add(Thread&, void* at, uint32_t value) {
  uint32_t old;
  memcpy(&old, at, sizeof(old));
  value += old;
  memcpy(at, &value, sizeof(value));
  return old;
}

}  // namespace emulation

#endif
