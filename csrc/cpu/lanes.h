// What differs between instruction sets: one table of functions each, filled by lanes_*.cpp.
#pragma once

#include "../dp_release.h"

namespace adpfl {

// Coordinates that one call of `tile` works on: sum, draws and a row of each unit stay in the first-level cache.
// A multiple of every group of draws, and a divisor of a segment.
constexpr int64_t kTile = 2048;

struct LaneKernels {
  const char* name;
  // The lane sum of squares (order 2) or absolute values (order 1) of at most kChunk numbers.
  double (*partial_norm)(const void* row, ScalarType type, int64_t count, int order);
  // The lane sum of `count` terms.
  double (*lane_sum)(const double* terms, int64_t count);
  // One tile of `sum_and_release_cpu`.
  bool (*tile)(const SumAndRelease& work, int64_t tile);
};

extern const LaneKernels kScalarLanes;
#if defined(__x86_64__)
extern const LaneKernels kAvx2Lanes;
extern const LaneKernels kAvx512Lanes;
#endif

}  // namespace adpfl
