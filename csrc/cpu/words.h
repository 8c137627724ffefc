// Vectors of ADPFL_LANES 32-bit words (GCC and clang vector extensions), and what those cannot say without a name for
// an instruction. Part of lanes_kernels.h; see there.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace adpfl {
namespace {

constexpr int kWidth = ADPFL_LANES;

typedef uint32_t Words __attribute__((vector_size(4 * ADPFL_LANES)));
typedef int32_t Mask __attribute__((vector_size(4 * ADPFL_LANES)));  // 0 or -1 a lane
typedef uint64_t WideWords __attribute__((vector_size(8 * ADPFL_LANES)));

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

inline Words all(uint32_t word) { return Words{} + word; }

inline Words lane_numbers() {
  Words lanes;
  for (int lane = 0; lane < kWidth; ++lane) lanes[lane] = lane;
  return lanes;
}

inline Words gather(const uint32_t* table, Words index) {
#if ADPFL_LANES == 16
  return (Words)_mm512_i32gather_epi32((__m512i)index, table, 4);
#elif ADPFL_LANES == 8
  return (Words)_mm256_i32gather_epi32((const int*)table, (__m256i)index, 4);
#else
  Words found;
  for (int lane = 0; lane < kWidth; ++lane) found[lane] = table[index[lane]];
  return found;
#endif
}

inline bool any(Words flags) {
#if ADPFL_LANES == 16
  return _mm512_test_epi32_mask((__m512i)flags, (__m512i)flags) != 0;
#elif ADPFL_LANES == 8
  return !_mm256_testz_si256((__m256i)flags, (__m256i)flags);
#else
  uint32_t seen = 0;
  for (int lane = 0; lane < kWidth; ++lane) seen |= flags[lane];
  return seen != 0;
#endif
}

// Bit l of the result is lane l of a mask.
inline uint32_t bits_of(Mask mask) {
#if ADPFL_LANES == 16
  return _mm512_movepi32_mask((__m512i)mask);
#elif ADPFL_LANES == 8
  return _mm256_movemask_ps((__m256)mask);
#else
  uint32_t bits = 0;
  for (int lane = 0; lane < kWidth; ++lane) bits |= (mask[lane] & 1u) << lane;
  return bits;
#endif
}

// Lanes of `a` and `b` in turn: the lower halves, or the upper ones.
template <bool kUpper>
inline Words zipped(Words a, Words b) {
  Mask order;
  for (int lane = 0; lane < kWidth; ++lane) order[lane] = lane / 2 + kWidth * (lane % 2) + (kUpper ? kWidth / 2 : 0);
  return __builtin_shuffle(a, b, order);
}

// Lane l of vector v moves to place kCount * l + v of all of them: each riffle of the two halves turns an index's top
// bit into its lowest.
template <int kCount>
inline void interleave(Words* vectors) {
  Words riffled[kCount];
  for (int riffle = 1; riffle < kCount; riffle *= 2) {
#pragma GCC unroll 8
    for (int place = 0; place < kCount / 2; ++place) {
      riffled[2 * place] = zipped<false>(vectors[place], vectors[place + kCount / 2]);
      riffled[2 * place + 1] = zipped<true>(vectors[place], vectors[place + kCount / 2]);
    }
#pragma GCC unroll 8
    for (int place = 0; place < kCount; ++place) vectors[place] = riffled[place];
  }
}

}  // namespace
}  // namespace adpfl
