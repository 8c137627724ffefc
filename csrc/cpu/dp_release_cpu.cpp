// The CPU side of the operators: which instruction set, what each thread does.
#include "../dp_release.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "lanes.h"

namespace adpfl {
namespace {

const LaneKernels* best_lanes() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl")) {
    return &kAvx512Lanes;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    return &kAvx2Lanes;
  }
#endif
  return &kScalarLanes;
}

std::atomic<const LaneKernels*> lanes{best_lanes()};

struct NormWork {
  const Gradients& gradients;
  const LaneKernels& kernels;
  int order;
  double* partials;
  double* norms;
};

// Partial sums [begin, end) of units * chunks, chunk by chunk of one unit after the other.
void partial_range(int64_t begin, int64_t end, void* context) {
  const NormWork& work = *static_cast<const NormWork*>(context);
  const Gradients& gradients = work.gradients;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t unit = item / gradients.chunks;
    const int64_t chunk = item % gradients.chunks;
    const UnitTensor& tensor =
        *(std::upper_bound(gradients.tensors, gradients.tensors + gradients.tensor_count, chunk,
                           [](int64_t wanted, const UnitTensor& each) { return wanted < each.first_chunk; }) -
          1);
    const int64_t start = (chunk - tensor.first_chunk) * kChunk;
    const int64_t width = tensor.type == ScalarType::kFloat32 ? 4 : 2;
    const char* row = static_cast<const char*>(tensor.data) + (unit * tensor.unit_stride + start) * width;
    work.partials[item] =
        work.kernels.partial_norm(row, tensor.type, std::min(kChunk, tensor.elements - start), work.order);
  }
}

void norm_range(int64_t begin, int64_t end, void* context) {
  const NormWork& work = *static_cast<const NormWork*>(context);
  for (int64_t unit = begin; unit < end; ++unit) {
    const double sum = work.kernels.lane_sum(work.partials + unit * work.gradients.chunks, work.gradients.chunks);
    work.norms[unit] = work.order == 2 ? std::sqrt(sum) : sum;
  }
}

struct TileWork {
  const SumAndRelease& work;
  const LaneKernels& kernels;
  std::atomic<bool> failed;
};

void tile_range(int64_t begin, int64_t end, void* context) {
  TileWork& tiles = *static_cast<TileWork*>(context);
  for (int64_t tile = begin; tile < end; ++tile) {
    if (!tiles.kernels.tile(tiles.work, tile)) tiles.failed = true;
  }
}

}  // namespace

void unit_norms_cpu(const Gradients& gradients, int order, double* partials, double* norms, const Parallel& parallel) {
  NormWork work{gradients, *lanes.load(), order, partials, norms};
  if (gradients.chunks > 0) parallel.run(gradients.units * gradients.chunks, 2, partial_range, &work);
  parallel.run(gradients.units, 16, norm_range, &work);
}

bool percentile_cpu(const double* norms, int64_t units, const double* window, int64_t window_size,
                    const int64_t* ranks, double* scratch, double* found) {
  const auto is_finite = [](double norm) { return std::isfinite(norm); };
  double* end = std::copy_if(norms, norms + units, scratch, is_finite);
  end = std::copy_if(window, window + window_size, end, is_finite);
  if (end == scratch) return false;
  double* wanted = scratch + (ranks[end - scratch] - 1);
  std::nth_element(scratch, wanted, end);
  *found = *wanted;
  return true;
}

void clip_factors_cpu(const double* norms, int64_t units, double clip_norm, int64_t sensitivity, double* factors,
                      int64_t* counts) {
  const double reserved = static_cast<double>(sensitivity) * kNormReserve;
  counts[0] = counts[1] = 0;
  for (int64_t unit = 0; unit < units; ++unit) {
    const bool finite = std::isfinite(norms[unit]);
    factors[unit] = finite ? reserved / std::max(norms[unit], clip_norm) : 0.0;
    counts[0] += finite && norms[unit] > clip_norm;
    counts[1] += !finite;
  }
}

bool sum_and_release_cpu(const SumAndRelease& work, const Parallel& parallel) {
  TileWork tiles{work, *lanes.load(), {false}};
  parallel.run((work.gradients.dimension + kTile - 1) / kTile, 2, tile_range, &tiles);
  return !tiles.failed;
}

}  // namespace adpfl

int adpfl_interface_version(void) { return adpfl::kInterfaceVersion; }

const char* adpfl_simd(void) { return adpfl::lanes.load()->name; }

int adpfl_use_simd(const char* name) {
  const adpfl::LaneKernels* best = adpfl::best_lanes();
  const adpfl::LaneKernels* wanted = nullptr;
  if (std::strcmp(name, adpfl::kScalarLanes.name) == 0) wanted = &adpfl::kScalarLanes;
#if defined(__x86_64__)
  if (best != &adpfl::kScalarLanes && std::strcmp(name, adpfl::kAvx2Lanes.name) == 0) wanted = &adpfl::kAvx2Lanes;
  if (best == &adpfl::kAvx512Lanes && std::strcmp(name, best->name) == 0) wanted = best;
#endif
  if (wanted == nullptr) return 0;
  adpfl::lanes = wanted;
  return 1;
}
