// What the kernels need to know, without torch: raw pointers, sizes, a stream. The same for CPU and CUDA.
//
// Nothing here allocates, checks types or throws; ops.cpp has done that.
#pragma once

#include <stdint.h>

#if defined(__CUDACC__)
#define ADPFL_ANYWHERE __host__ __device__
#else
#define ADPFL_ANYWHERE
#endif

namespace adpfl {

// Raised when an operator's arguments or the tables' layout change; a stale library is then refused.
constexpr int kInterfaceVersion = 1;

// Order of a norm's additions (adpfl/kernels/reference.py): logical lanes, and elements of a partial sum.
constexpr int64_t kLanes = 1024;
constexpr int64_t kChunk = 16 * kLanes;

// A segment has 2^26 coordinates; the nonce counts segments, the block counter counts within one.
constexpr int kSegmentBits = 26;

enum class ScalarType : int32_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

// One tensor of per-unit gradients: `units` rows of `elements` consecutive numbers.
struct UnitTensor {
  const void* data;
  int64_t unit_stride;  // in elements, from one unit's row to the next; may be 0
  int64_t elements;     // d_i
  int64_t first_index;  // the tensor's first coordinate in the index space of all tensors
  int64_t first_chunk;  // its first partial sum among the unit's
  ScalarType type;
};

struct Gradients {
  const UnitTensor* tensors;
  int64_t tensor_count;
  int64_t units;       // B
  int64_t dimension;   // D
  int64_t chunks;      // partial sums of a unit
};

struct Noise {
  const uint32_t* tables;  // layout below
  int32_t scale_bits;      // s
  bool gaussian;
};

// Tables of one law and scale, made by adpfl/kernels/noise_tables.py. For each digit, low to high:
//   guide: 2^11 words, by the 11 leading bits of U. Bits 0-20: U's low 20 bits from which the digit is one
//     higher (2^20: nowhere in this bucket); bits 21-30: the digit below; bit 31: several thresholds, search.
//   exact: 1023 thresholds of 4 words, each 31 leading bits, then the 95 tail bits shifted left by one.
// Then, for the Gaussian law, for each piece of N, low to high: 2^width leading words, 2^width tails of 3 words.
constexpr int kDigitBits = 10;
constexpr int kGuideBits = 11;
constexpr int kGuideShift = 31 - kGuideBits;
constexpr int kGuideWords = 1 << kGuideBits;
constexpr int kThresholds = (1 << kDigitBits) - 1;
constexpr int kThresholdWords = 4;
constexpr int kDigitTableWords = kGuideWords + kThresholds * kThresholdWords;
constexpr int kPieces = 4;

ADPFL_ANYWHERE constexpr int digit_count(int scale_bits) { return scale_bits / kDigitBits + 1; }
ADPFL_ANYWHERE constexpr int piece_width(int scale_bits, int piece) {
  return scale_bits == 20 ? (piece == 3 ? 13 : 12) : (piece == 0 ? 8 : 7);
}
ADPFL_ANYWHERE constexpr int64_t table_words(int scale_bits, bool gaussian) {
  int64_t words = int64_t{digit_count(scale_bits)} * kDigitTableWords;
  for (int piece = 0; gaussian && piece < kPieces; ++piece) words += int64_t{4} << piece_width(scale_bits, piece);
  return words;
}

// Byte 0 of a nonce (adpfl/kernels/keystream.py).
enum Domain : uint32_t { kLaplace = 1, kGaussianProposal = 2, kGaussianAcceptance = 3, kRefinement = 0x80 };
ADPFL_ANYWHERE constexpr uint32_t nonce_head(uint32_t domain, uint32_t attempt, uint32_t digit) {
  return domain | attempt << 8 | digit << 16;
}

// The `keystream` tensor: four int64 words of key, and the step that the next release will use.
constexpr int64_t kKeystreamWords = 5;
constexpr int64_t kStepWord = 4;
constexpr int64_t kStepLimit = int64_t{1} << 32;

constexpr double kNormReserve = 1.0 - 0x1p-30;  // share of A that a clipped unit may use
constexpr double kMinClipNorm = 0x1p-126;
constexpr double kMaxClipNorm = 0x1p127;

// ---- CPU ------------------------------------------------------------------------------------------------

// Runs body(begin, end, context) over [0, count) on the caller's threads, ranges of `grain` at least.
struct Parallel {
  void (*run)(int64_t count, int64_t grain, void (*body)(int64_t, int64_t, void*), void* context);
};

// norms (units), with `partials` (units * chunks) as workspace.
void unit_norms_cpu(const Gradients& gradients, int order, double* partials, double* norms, const Parallel& parallel);

// The p-th percentile by nearest rank over the finite numbers of both arrays: ranks[n] of n finite ones. False
// where none is finite. `scratch` holds units + window_size numbers.
bool percentile_cpu(const double* norms, int64_t units, const double* window, int64_t window_size,
                    const int64_t* ranks, double* scratch, double* found);

// factors[u] = A (1 - 2^-30) / max(norm, C), 0 for a unit that is not finite; counts = {clipped, not finite}.
void clip_factors_cpu(const double* norms, int64_t units, double clip_norm, int64_t sensitivity, double* factors,
                      int64_t* counts);

// The second read, tile by tile of the index space: sum of trunc(g * factor), plus `total` where there is one;
// then either back into `total`, or with noise into `noised`.
struct SumAndRelease {
  Gradients gradients;      // units may be 0; tensors are then not read
  const double* factors;    // (units); a unit with factor 0 is skipped
  const int64_t* total_in;  // (dimension) or null
  int64_t* total_out;       // (dimension) or null: no noise then
  float* noised;            // (dimension) or null
  Noise noise;
  uint32_t key[8];
  uint32_t step;
  double release_factor;  // C / (2 A)
};
// False where a coordinate of Gaussian noise failed 256 times (probability 1e-158): the output is void.
bool sum_and_release_cpu(const SumAndRelease& work, const Parallel& parallel);

// ---- CUDA -----------------------------------------------------------------------------------------------

// Everything is queued on `stream` (a cudaStream_t), nothing waits for it, and pointers are to device memory
// unless they say otherwise. The result is the first cudaError_t, 0 for none.

// Tensors of one launch: they travel by value, in the kernel's parameters.
constexpr int kTensorsPerLaunch = 256;

int unit_norms_cuda(const Gradients& gradients, int order, double* partials, double* norms, void* stream);

// Threshold, factors and counts, on the device. `clip_norm` is read where there are no `ranks`; else it is the
// one that serves while no norm is finite. A clip norm outside the range of float32 makes `clip_used` NaN, every
// factor 0 and the counts -1: nothing that is summed or released with it tells anything.
struct ClipWork {
  const double* norms;
  int64_t units;
  const double* window;
  int64_t window_size;
  const int64_t* ranks;             // or null
  const double* device_clip_norm;   // or null: clip_norm
  double clip_norm;
  double min_clip_norm;
  int64_t sensitivity;
  double* factors;    // (units)
  double* clip_used;  // (1)
  int64_t* counts;    // (2)
};
int clip_factors_cuda(const ClipWork& work, void* stream);

// As SumAndRelease, with the key, the step and C on the device. `keystream` is null where nothing is noised. At
// most kTensorsPerLaunch tensors where both gradients and noise are wanted. A void step or C gives NaN.
struct DeviceSumAndRelease {
  Gradients gradients;
  const double* factors;
  const int64_t* total_in;
  int64_t* total_out;
  float* noised;
  Noise noise;
  int64_t* keystream;
  const double* clip_used;
  int64_t sensitivity;
};
int sum_and_release_cuda(const DeviceSumAndRelease& work, void* stream);

}  // namespace adpfl

// What adpfl/kernels/extension.py asks through ctypes.
#define ADPFL_EXPORT __attribute__((visibility("default")))
extern "C" {
ADPFL_EXPORT int adpfl_interface_version(void);
// What the CPU kernels run on: "avx512", "avx2" or "scalar".
ADPFL_EXPORT const char* adpfl_simd(void);
// Use at most this; for tests. Returns 0 where the name or the machine does not allow it.
ADPFL_EXPORT int adpfl_use_simd(const char* name);
// "" or the architectures of the CUDA code inside.
ADPFL_EXPORT const char* adpfl_cuda_architectures(void);
}
