// Norms in the order of additions that adpfl/kernels/reference.py fixes; the threshold; the clip factors.
#pragma once

#include "gradients.cuh"

namespace adpfl {

constexpr int kNormThreads = 128;
constexpr int kLanesEach = kLanes / kNormThreads;  // a thread's lanes: kLanesEach consecutive ones, rotated

// Folds the block's 1024 lanes, `lanes` of each thread, by the halving tree; the sum is thread 0's. Each addition of
// the tree is of lanes l and l + half; both orders of two operands give the same bits, so that a rotation of the
// lanes by any number changes nothing.
__device__ __forceinline__ double folded(double (&lanes)[kLanesEach], double (&shared)[kNormThreads / 2][kLanesEach]) {
#pragma unroll 1
  for (int half = kNormThreads / 2; half >= 32; half /= 2) {
    __syncthreads();
    if (threadIdx.x >= half && threadIdx.x < 2 * half) {
#pragma unroll
      for (int lane = 0; lane < kLanesEach; ++lane) shared[threadIdx.x - half][lane] = lanes[lane];
    }
    __syncthreads();
    if (threadIdx.x < half) {
#pragma unroll
      for (int lane = 0; lane < kLanesEach; ++lane) lanes[lane] += shared[threadIdx.x][lane];
    }
  }
  if (threadIdx.x < 32) {
#pragma unroll
    for (int half = 16; half > 0; half /= 2) {
#pragma unroll
      for (int lane = 0; lane < kLanesEach; ++lane) lanes[lane] += __shfl_down_sync(0xffffffffu, lanes[lane], half);
    }
  }
#pragma unroll
  for (int half = kLanesEach / 2; half > 0; half /= 2) {
#pragma unroll
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

template <int kOrder>
__device__ __forceinline__ double with_term(double sum, float value) {
  const double wide = value;
  return kOrder == 2 ? __fma_rn(wide, wide, sum) : sum + fabs(wide);  // the square is exact: one rounding either way
}

// Adds a chunk's numbers to the thread's lanes. Vectors lie on 16-byte boundaries, so lanes are rotated by the row's
// misalignment; a lane's numbers still come in order, all to one thread.
template <int kOrder, typename Number>
__device__ __forceinline__ void add_chunk(const Number* __restrict__ row, int64_t count, double (&lanes)[kLanesEach]) {
  constexpr int kVectors = kLanesEach / kPerVector<Number>;
  const int64_t shift = misalignment(row);
#pragma unroll 4
  for (int64_t start = static_cast<int64_t>(threadIdx.x) * kLanesEach - shift; start < count; start += kLanes) {
#pragma unroll
    for (int vector = 0; vector < kVectors; ++vector) {
      float values[kPerVector<Number>];
      load_vector(row, start + vector * kPerVector<Number>, count, values);
#pragma unroll
      for (int place = 0; place < kPerVector<Number>; ++place) {
        const int lane = vector * kPerVector<Number> + place;
        lanes[lane] = with_term<kOrder>(lanes[lane], values[place]);
      }
    }
  }
}

// One block for each partial sum of each unit: partials[unit * chunks + chunk].
template <int kOrder>
__global__ void __launch_bounds__(kNormThreads)
    partial_norms_kernel(const __grid_constant__ TensorTable table, int64_t first_chunk, int64_t chunk_count,
                         int64_t units, int64_t chunks, double* __restrict__ partials) {
  __shared__ double shared[kNormThreads / 2][kLanesEach];
  for (int64_t item = blockIdx.x; item < units * chunk_count; item += gridDim.x) {
    const int64_t unit = item / chunk_count;
    const int64_t chunk = first_chunk + item % chunk_count;
    int place = 0, end = table.count;  // the last tensor that starts at or before the chunk
    while (end - place > 1) {
      const int middle = (place + end) / 2;
      if (table.tensors[middle].first_chunk <= chunk) {
        place = middle;
      } else {
        end = middle;
      }
    }
    const UnitTensor& tensor = table.tensors[place];
    const int64_t start = (chunk - tensor.first_chunk) * kChunk;
    const int64_t offset = unit * tensor.unit_stride + start;
    const int64_t count = min(kChunk, tensor.elements - start);
    double lanes[kLanesEach] = {};
    if (tensor.type == ScalarType::kFloat32) {
      add_chunk<kOrder>(static_cast<const float*>(tensor.data) + offset, count, lanes);
    } else if (tensor.type == ScalarType::kBFloat16) {
      add_chunk<kOrder>(static_cast<const __nv_bfloat16*>(tensor.data) + offset, count, lanes);
    } else {
      add_chunk<kOrder>(static_cast<const __half*>(tensor.data) + offset, count, lanes);
    }
    const double sum = folded(lanes, shared);
    if (threadIdx.x == 0) partials[unit * chunks + chunk] = sum;
  }
}

// One block for each unit.
template <int kOrder>
__global__ void __launch_bounds__(kNormThreads)
    finish_norms_kernel(const double* __restrict__ partials, int64_t units, int64_t chunks,
                        double* __restrict__ norms) {
  __shared__ double shared[kNormThreads / 2][kLanesEach];
  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    double lanes[kLanesEach] = {};
    for (int64_t row = 0; row < chunks; row += kLanes) {
#pragma unroll
      for (int lane = 0; lane < kLanesEach; ++lane) {
        const int64_t chunk = row + threadIdx.x * kLanesEach + lane;
        if (chunk < chunks) lanes[lane] += partials[unit * chunks + chunk];
      }
    }
    const double sum = folded(lanes, shared);
    if (threadIdx.x == 0) norms[unit] = kOrder == 2 ? __dsqrt_rn(sum) : sum;
  }
}

// ---- Threshold --------------------------------------------------------------------------------------------

constexpr int kSelectThreads = 256;

struct Selection {
  unsigned long long prefix;  // leading bits of the wanted norm that are settled
  unsigned int rank;          // from 1, among the norms with that prefix
  unsigned int finite;
  unsigned int bins[256];
  unsigned int warp_sums[kSelectThreads / 32];
};

__device__ __forceinline__ double seen_norm(const ClipWork& work, int64_t place) {
  return place < work.units ? work.norms[place] : work.window[place - work.units];
}

// The count of this thread and those before it.
__device__ __forceinline__ unsigned int inclusive_sum(unsigned int value, Selection& shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const unsigned int before = __shfl_up_sync(0xffffffffu, value, distance);
    if (lane >= distance) value += before;
  }
  if (lane == 31) shared.warp_sums[warp] = value;
  __syncthreads();
  for (int each = 0; each < warp; ++each) value += shared.warp_sums[each];
  __syncthreads();
  return value;
}

// The nearest-rank percentile over norms and window, by radix selection on their bits: a finite norm is not negative,
// so its bits rise with it. The same for all threads of the block.
__device__ __forceinline__ double selected_threshold(const ClipWork& work, Selection& shared) {
  const int64_t seen = work.units + work.window_size;
  if (threadIdx.x == 0) shared.finite = 0;
  __syncthreads();
  for (int64_t place = threadIdx.x; place < seen; place += kSelectThreads) {
    if (isfinite(seen_norm(work, place))) atomicAdd(&shared.finite, 1u);
  }
  __syncthreads();
  if (shared.finite == 0) return work.clip_norm;
  if (threadIdx.x == 0) {
    shared.prefix = 0;
    shared.rank = static_cast<unsigned int>(work.ranks[shared.finite]);
  }
#pragma unroll 1
  for (int shift = 56; shift >= 0; shift -= 8) {
    shared.bins[threadIdx.x] = 0;
    __syncthreads();
    const unsigned long long prefix = shared.prefix;
    const unsigned int rank = shared.rank;
    for (int64_t place = threadIdx.x; place < seen; place += kSelectThreads) {
      const double norm = seen_norm(work, place);
      const unsigned long long bits = __double_as_longlong(norm);
      const bool matches = shift == 56 || bits >> (shift + 8) == prefix >> (shift + 8);
      if (isfinite(norm) && matches) atomicAdd(&shared.bins[bits >> shift & 255], 1u);
    }
    __syncthreads();
    const unsigned int mine = shared.bins[threadIdx.x];
    const unsigned int upto = inclusive_sum(mine, shared);
    if (upto >= rank && upto - mine < rank) {
      shared.prefix = prefix | static_cast<unsigned long long>(threadIdx.x) << shift;
      shared.rank = rank - (upto - mine);
    }
    __syncthreads();
  }
  return __longlong_as_double(shared.prefix);
}

// One block.
__global__ void __launch_bounds__(kSelectThreads) clip_factors_kernel(const __grid_constant__ ClipWork work) {
  __shared__ Selection shared;
  __shared__ unsigned int counts[2];
  double clip_norm = work.device_clip_norm ? *work.device_clip_norm : work.clip_norm;
  if (work.ranks) clip_norm = fmax(selected_threshold(work, shared), work.min_clip_norm);
  const bool usable = clip_norm >= kMinClipNorm && clip_norm <= kMaxClipNorm;
  if (threadIdx.x < 2) counts[threadIdx.x] = 0;
  __syncthreads();
  const double reserved = static_cast<double>(work.sensitivity) * kNormReserve;
  for (int64_t unit = threadIdx.x; unit < work.units; unit += kSelectThreads) {
    const double norm = work.norms[unit];
    const bool finite = isfinite(norm);
    work.factors[unit] = finite && usable ? __ddiv_rn(reserved, fmax(norm, clip_norm)) : 0.0;
    if (finite && norm > clip_norm) atomicAdd(&counts[0], 1u);
    if (!finite) atomicAdd(&counts[1], 1u);
  }
  __syncthreads();
  if (threadIdx.x < 2) work.counts[threadIdx.x] = usable ? static_cast<int64_t>(counts[threadIdx.x]) : -1;
  if (threadIdx.x == 0) *work.clip_used = usable ? clip_norm : __longlong_as_double(0x7ff8000000000000ll);
}

}  // namespace adpfl
