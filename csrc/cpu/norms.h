// Reading gradients, and partial norms in the order of additions that adpfl/kernels/reference.py fixes. Part of
// lanes_kernels.h; see there.
#pragma once

#include <math.h>

#include "lanes.h"
#include "words.h"

namespace adpfl {
namespace {

// ---- Reading gradients ----------------------------------------------------------------------------------

inline float bfloat16_to_float(uint16_t bits) {
  uint32_t wide = uint32_t{bits} << 16;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}

// binary16 to binary32, exact for every number; NaN stays NaN. Multiplying by 2^112 moves the exponent's bias, also
// for subnormal numbers.
inline float float16_to_float(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  uint32_t rest = uint32_t{bits & 0x7fffu} << 13;
  if ((bits & 0x7c00u) == 0x7c00u) {
    rest |= 0x7f800000u;  // infinite or NaN
  } else {
    float value;
    memcpy(&value, &rest, 4);
    value *= 0x1p112f;
    memcpy(&rest, &value, 4);
  }
  rest |= sign;
  float value;
  memcpy(&value, &rest, 4);
  return value;
}

void widen_bfloat16(const uint16_t* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = bfloat16_to_float(from[i]);
}

void widen_float16(const uint16_t* from, int64_t count, float* to) {
  int64_t i = 0;
#if ADPFL_LANES == 16
  for (; i + 16 <= count; i += 16)
    _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)(from + i))));
#elif ADPFL_LANES == 8
  for (; i + 8 <= count; i += 8) _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(from + i))));
#endif
  for (; i < count; ++i) to[i] = float16_to_float(from[i]);
}

// `count` numbers of a row from `start` on, as float32: in place, or widened into `buffer`.
inline const float* as_floats(const void* row, ScalarType type, int64_t start, int64_t count, float* buffer) {
  if (type == ScalarType::kFloat32) return static_cast<const float*>(row) + start;
  const uint16_t* halves = static_cast<const uint16_t*>(row) + start;
  if (type == ScalarType::kBFloat16) {
    widen_bfloat16(halves, count, buffer);
  } else {
    widen_float16(halves, count, buffer);
  }
  return buffer;
}

// ---- Norms ----------------------------------------------------------------------------------------------

// Lanes that a lane sum of `count` terms needs: absent ones hold +0 and change nothing.
inline int64_t used_lanes(int64_t count) {
  int64_t used = 1;
  while (used < count && used < kLanes) used *= 2;
  return used;
}

inline double tree(double* lanes, int64_t used) {
  for (int64_t half = used / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

inline double term(float value, bool squares) {
  const double wide = value;
  return squares ? wide * wide : fabs(wide);
}

// Adds up to kRows rows of kLanes numbers to the lanes, in order.
constexpr int64_t kRows = 4;

template <bool kSquares>
inline void add_rows(const float* x, int64_t count, double* __restrict lanes) {
  if (count == kRows * kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      double sum = lanes[lane] + term(x[lane], kSquares);
      sum += term(x[lane + kLanes], kSquares);
      sum += term(x[lane + 2 * kLanes], kSquares);
      lanes[lane] = sum + term(x[lane + 3 * kLanes], kSquares);
    }
    return;
  }
  for (int64_t start = 0; start < count; start += kLanes) {
    const int64_t row = smaller(kLanes, count - start);
    for (int64_t lane = 0; lane < row; ++lane) lanes[lane] += term(x[start + lane], kSquares);
  }
}

double partial_norm(const void* row, ScalarType type, int64_t count, int order) {
  alignas(64) double lanes[kLanes];
  alignas(64) float buffer[kRows * kLanes];
  const int64_t used = used_lanes(count);
  memset(lanes, 0, used * sizeof(double));
  for (int64_t start = 0; start < count; start += kRows * kLanes) {
    const int64_t piece = smaller(kRows * kLanes, count - start);
    const float* x = as_floats(row, type, start, piece, buffer);
    if (order == 2) {
      add_rows<true>(x, piece, lanes);
    } else {
      add_rows<false>(x, piece, lanes);
    }
  }
  return tree(lanes, used);
}

double lane_sum(const double* terms, int64_t count) {
  alignas(64) double lanes[kLanes];
  const int64_t used = used_lanes(count);
  memset(lanes, 0, used * sizeof(double));
  for (int64_t start = 0; start < count; start += kLanes) {
    const int64_t row = smaller(kLanes, count - start);
    for (int64_t lane = 0; lane < row; ++lane) lanes[lane] += terms[start + lane];
  }
  return tree(lanes, used);
}

}  // namespace
}  // namespace adpfl
