// Launchers of the CUDA kernels: torch-free, so that nvcc needs the toolkit alone.
#include <cuda_runtime.h>

#include <algorithm>

#include "norms.cuh"
#include "sum_release.cuh"

namespace adpfl {
namespace {

// Blocks enough for every device; kernels loop where there is more work.
unsigned int blocks(int64_t items, int64_t limit) {
  return static_cast<unsigned int>(std::min(std::max(items, int64_t{1}), limit));
}

constexpr int64_t kMostBlocks = (int64_t{1} << 31) - 1;

// Blocks of pass 2: a few for each place on the device, as each fills its shared tables once.
int64_t resident_blocks() {
  int device = 0, processors = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) {
    return kMostBlocks;
  }
  return int64_t{6} * processors;
}

// Calls launch(table, first, end) for each group of at most kTensorsPerLaunch non-empty tensors.
template <typename Launch>
void for_each_table(const Gradients& gradients, Launch launch) {
  TensorTable table = {};
  for (int64_t place = 0; place < gradients.tensor_count; ++place) {
    const UnitTensor& tensor = gradients.tensors[place];
    if (tensor.elements > 0) table.tensors[table.count++] = tensor;
    if (table.count == kTensorsPerLaunch || (place + 1 == gradients.tensor_count && table.count > 0)) {
      launch(table);
      table.count = 0;
    }
  }
}

int64_t chunks_of(const UnitTensor& tensor) { return (tensor.elements + kChunk - 1) / kChunk; }

template <Law kLaw, int kScaleBits>
void launch_sum_release(const TensorTable& table, const DeviceSumAndRelease& work, cudaStream_t stream) {
  // With noise every tile is written, else those that the table's tensors touch.
  int64_t first = 0, end = (work.gradients.dimension + kDeviceTile - 1) / kDeviceTile;
  if (kLaw == Law::kNone) {
    const UnitTensor& last = table.tensors[table.count - 1];
    first = table.tensors[0].first_index / kDeviceTile;
    end = (last.first_index + last.elements + kDeviceTile - 1) / kDeviceTile;
  }
  if (end == first) return;
  sum_release_kernel<kLaw, kScaleBits>
      <<<blocks(end - first, resident_blocks()), kThreads, 0, stream>>>(table, work, first, end - first);
}

void launch_release(const TensorTable& table, const DeviceSumAndRelease& work, cudaStream_t stream) {
  if (work.noise.gaussian) {
    work.noise.scale_bits == 20 ? launch_sum_release<Law::kGaussian, 20>(table, work, stream)
                                : launch_sum_release<Law::kGaussian, 10>(table, work, stream);
  } else if (work.noise.scale_bits == 10) {
    launch_sum_release<Law::kLaplace, 10>(table, work, stream);
  } else if (work.noise.scale_bits == 20) {
    launch_sum_release<Law::kLaplace, 20>(table, work, stream);
  } else {
    launch_sum_release<Law::kLaplace, 30>(table, work, stream);
  }
  advance_keystream_kernel<<<1, 1, 0, stream>>>(work.keystream);
}

template <int kOrder>
void launch_norms(const Gradients& gradients, double* partials, double* norms, cudaStream_t stream) {
  for_each_table(gradients, [&](const TensorTable& table) {
    const UnitTensor& last = table.tensors[table.count - 1];
    const int64_t first = table.tensors[0].first_chunk;
    const int64_t count = last.first_chunk + chunks_of(last) - first;
    partial_norms_kernel<kOrder><<<blocks(count * gradients.units, kMostBlocks), kNormThreads, 0, stream>>>(
        table, first, count, gradients.units, gradients.chunks, partials);
  });
  finish_norms_kernel<kOrder><<<blocks(gradients.units, kMostBlocks), kNormThreads, 0, stream>>>(
      partials, gradients.units, gradients.chunks, norms);
}

}  // namespace

int unit_norms_cuda(const Gradients& gradients, int order, double* partials, double* norms, void* stream) {
  if (gradients.units == 0) return cudaSuccess;
  if (order == 2) {
    launch_norms<2>(gradients, partials, norms, static_cast<cudaStream_t>(stream));
  } else {
    launch_norms<1>(gradients, partials, norms, static_cast<cudaStream_t>(stream));
  }
  return cudaGetLastError();
}

int clip_factors_cuda(const ClipWork& work, void* stream) {
  clip_factors_kernel<<<1, kSelectThreads, 0, static_cast<cudaStream_t>(stream)>>>(work);
  return cudaGetLastError();
}

int sum_and_release_cuda(const DeviceSumAndRelease& work, void* stream) {
  const cudaStream_t queue = static_cast<cudaStream_t>(stream);
  if (work.keystream == nullptr) {
    for_each_table(work.gradients,
                   [&](const TensorTable& table) { launch_sum_release<Law::kNone, 10>(table, work, queue); });
    return cudaGetLastError();
  }
  TensorTable table = {};
  if (work.gradients.units > 0) {
    if (work.gradients.tensor_count > kTensorsPerLaunch) return cudaErrorInvalidValue;
    for_each_table(work.gradients, [&](const TensorTable& only) { table = only; });
  }
  launch_release(table, work, queue);
  return cudaGetLastError();
}

}  // namespace adpfl
