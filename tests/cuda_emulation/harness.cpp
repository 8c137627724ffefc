// The launchers of csrc/cuda, called in the order in which csrc/ops.cpp calls them, with plain arguments for ctypes.
#include "dp_release.h"

using namespace adpfl;

namespace {

// A list of tensors as flat arrays; filled by the test, so that its layout is the test's business alone.
Gradients gradients_of(const UnitTensor* tensors, int64_t count, int64_t units, int64_t dimension, int64_t chunks) {
  return {tensors, count, units, dimension, chunks};
}

}  // namespace

extern "C" {

int64_t emulation_tensor_bytes() { return sizeof(UnitTensor); }
void emulation_set_tensor(UnitTensor* tensors, int64_t place, const void* data, int64_t unit_stride, int64_t elements,
                          int64_t first_index, int64_t first_chunk, int32_t type) {
  tensors[place] = {data, unit_stride, elements, first_index, first_chunk, static_cast<ScalarType>(type)};
}

int emulation_unit_norms(const UnitTensor* tensors, int64_t count, int64_t units, int64_t dimension, int64_t chunks,
                         int order, double* partials, double* norms) {
  return unit_norms_cuda(gradients_of(tensors, count, units, dimension, chunks), order, partials, norms, nullptr);
}

int emulation_clip_factors(const double* norms, int64_t units, const double* window, int64_t window_size,
                           const int64_t* ranks, double clip_norm, double min_clip_norm, int64_t sensitivity,
                           double* factors, double* clip_used, int64_t* counts) {
  const ClipWork work = {norms,         units,       window,  window_size, ranks,  nullptr, clip_norm,
                         min_clip_norm, sensitivity, factors, clip_used,   counts};
  return clip_factors_cuda(work, nullptr);
}

int emulation_sum_and_release(const UnitTensor* tensors, int64_t count, int64_t units, int64_t dimension,
                              int64_t chunks, const double* factors, const int64_t* total_in, int64_t* total_out,
                              float* noised, const uint32_t* tables, int scale_bits, int gaussian, int64_t* keystream,
                              const double* clip_used, int64_t sensitivity) {
  const DeviceSumAndRelease work = {gradients_of(tensors, count, units, dimension, chunks),
                                    factors,
                                    total_in,
                                    total_out,
                                    noised,
                                    {tables, scale_bits, gaussian != 0},
                                    keystream,
                                    clip_used,
                                    sensitivity};
  return sum_and_release_cuda(work, nullptr);
}
}
