// The second read of the gradients: clip, truncate to the lattice, sum, add the noise, convert once.
#pragma once

#include "draws.cuh"
#include "gradients.cuh"

namespace adpfl {

// What is added to the sum. kNone is `clip_accumulate_`.
enum class Law { kNone, kLaplace, kGaussian };

__device__ __forceinline__ int64_t truncated(float value, double factor) {
  return __double2ll_rz(__dmul_rn(static_cast<double>(value), factor));
}

// Adds the thread's numbers [start, start + kOwn) of each unit's row; start may be negative or reach past the row.
template <typename Number>
__device__ __forceinline__ void add_rows(const UnitTensor& tensor, const double* __restrict__ factors, int64_t units,
                                         int64_t start, int64_t (&sums)[kOwn]) {
  constexpr int kVectors = kOwn / kPerVector<Number>;
  const Number* row = static_cast<const Number*>(tensor.data);
#pragma unroll 2
  for (int64_t unit = 0; unit < units; ++unit, row += tensor.unit_stride) {
    const double factor = __ldg(factors + unit);
    if (factor == 0) continue;  // a unit that is not finite
    if (start >= 0 && start + kOwn <= tensor.elements && misalignment(row + start) == 0) {
#pragma unroll
      for (int vector = 0; vector < kVectors; ++vector) {
        float values[kPerVector<Number>];
        unpack(__ldg(reinterpret_cast<const uint4*>(row + start) + vector), Number{}, values);
#pragma unroll
        for (int place = 0; place < kPerVector<Number>; ++place) {
          sums[vector * kPerVector<Number> + place] += truncated(values[place], factor);
        }
      }
    } else {
#pragma unroll
      for (int place = 0; place < kOwn; ++place) {
        const bool inside = start + place >= 0 && start + place < tensor.elements;
        if (inside) sums[place] += truncated(as_float(row[start + place]), factor);
      }
    }
  }
}

__device__ __forceinline__ void add_gradients(const TensorTable& table, const DeviceSumAndRelease& work, int64_t tile,
                                              int64_t (&sums)[kOwn]) {
  int low = 0, high = table.count;  // the first tensor that ends after the tile's first coordinate
  while (low < high) {
    const int middle = (low + high) / 2;
    if (table.tensors[middle].first_index + table.tensors[middle].elements <= tile) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  for (; low < table.count && table.tensors[low].first_index < tile + kDeviceTile; ++low) {
    const UnitTensor& tensor = table.tensors[low];
    const int64_t start = tile + threadIdx.x * kOwn - tensor.first_index;
    if (start <= -kOwn || start >= tensor.elements) continue;
    if (tensor.type == ScalarType::kFloat32) {
      add_rows<float>(tensor, work.factors, work.gradients.units, start, sums);
    } else if (tensor.type == ScalarType::kBFloat16) {
      add_rows<__nv_bfloat16>(tensor, work.factors, work.gradients.units, start, sums);
    } else {
      add_rows<__half>(tensor, work.factors, work.gradients.units, start, sums);
    }
  }
}

__device__ __forceinline__ Stream stream_of(const int64_t* __restrict__ keystream, int64_t tile) {
  Stream stream;
#pragma unroll
  for (int word = 0; word < 4; ++word) {
    const uint64_t pair = static_cast<uint64_t>(__ldg(keystream + word));
    stream.key[2 * word] = static_cast<uint32_t>(pair);
    stream.key[2 * word + 1] = static_cast<uint32_t>(pair >> 32);
  }
  stream.head = 0;
  stream.segment = static_cast<uint32_t>(tile >> kSegmentBits);
  stream.step = static_cast<uint32_t>(__ldg(keystream + kStepWord));
  return stream;
}

template <Law kLaw, int kScaleBits>
struct TileMemory {
  Guides<digit_count(kScaleBits)> guides;
};
template <int kScaleBits>
struct TileMemory<Law::kGaussian, kScaleBits> {
  Guides<digit_count(kScaleBits)> guides;
  GaussianTile gaussian;
};
template <int kScaleBits>
struct TileMemory<Law::kNone, kScaleBits> {};

// Blocks that a multiprocessor must hold at once: as many as the registers allow without spilling.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
template <Law kLaw>
constexpr int kBlocksEach = 2;
#else
template <Law kLaw>
constexpr int kBlocksEach = kLaw == Law::kGaussian ? 2 : 3;
#endif

// Tiles from the last to the first: the gradients that pass 1 read last are still in the second-level cache.
template <Law kLaw, int kScaleBits>
__global__ void __launch_bounds__(kThreads, kBlocksEach<kLaw>)
    sum_release_kernel(const __grid_constant__ TensorTable table, const __grid_constant__ DeviceSumAndRelease work,
                       int64_t first_tile, int64_t tile_count) {
  __shared__ TileMemory<kLaw, kScaleBits> memory;
  double release_factor = 0;
  bool usable = true;
  if constexpr (kLaw != Law::kNone) {
    load_guides(work.noise.tables, memory.guides);
    const double clip_norm = *work.clip_used;
    const int64_t step = work.keystream[kStepWord];
    usable = clip_norm >= kMinClipNorm && clip_norm <= kMaxClipNorm && step >= 0 && step < kStepLimit;
    release_factor = __ddiv_rn(clip_norm, 2.0 * static_cast<double>(work.sensitivity));
    __syncthreads();
  }
#pragma unroll 1
  for (int64_t item = blockIdx.x; item < tile_count; item += gridDim.x) {
    const int64_t tile = (first_tile + tile_count - 1 - item) * kDeviceTile;
    const int64_t first = tile + threadIdx.x * kOwn;
    const int64_t left = work.gradients.dimension - first;
    int64_t draws[kOwn] = {};
    if constexpr (kLaw == Law::kLaplace) {
      const uint32_t within = static_cast<uint32_t>(first & ((int64_t{1} << kSegmentBits) - 1));
      if (left > 0) laplace_draws<kScaleBits>(stream_of(work.keystream, tile), work.noise.tables, memory.guides, within, draws);
    } else if constexpr (kLaw == Law::kGaussian) {
      const uint32_t within = static_cast<uint32_t>(tile & ((int64_t{1} << kSegmentBits) - 1));
      const int count = static_cast<int>(min(static_cast<int64_t>(kDeviceTile), work.gradients.dimension - tile));
      usable &= gaussian_tile<kScaleBits>(stream_of(work.keystream, tile), work.noise.tables, memory.guides, within,
                                          count, memory.gaussian);
#pragma unroll
      for (int own = 0; own < kOwn; ++own) {
        const uint32_t made = memory.gaussian.proposals[threadIdx.x * kOwn + own];
        draws[own] = odd_draw(made & 0x7fffffffu, made >> 31);
      }
    }
    int64_t sums[kOwn] = {};
    if (work.total_in) {
#pragma unroll
      for (int own = 0; own < kOwn; ++own) {
        if (own < left) sums[own] = work.total_in[first + own];
      }
    }
    if (work.gradients.units > 0) add_gradients(table, work, tile, sums);
    if constexpr (kLaw == Law::kNone) {
#pragma unroll
      for (int own = 0; own < kOwn; ++own) {
        if (own < left) work.total_out[first + own] = sums[own];
      }
    } else {
      float noised[kOwn];
#pragma unroll
      for (int own = 0; own < kOwn; ++own) {
        const double released = static_cast<double>(2 * sums[own] + draws[own]);
        noised[own] = usable ? static_cast<float>(__dmul_rn(released, release_factor)) : __uint_as_float(0x7fc00000u);
      }
      if (left >= kOwn) {  // the output is this library's own, on a 16-byte boundary
        float4* out = reinterpret_cast<float4*>(work.noised + first);
        __stcs(out, make_float4(noised[0], noised[1], noised[2], noised[3]));
        __stcs(out + 1, make_float4(noised[4], noised[5], noised[6], noised[7]));
      } else {
#pragma unroll
        for (int own = 0; own < kOwn; ++own) {
          if (own < left) work.noised[first + own] = noised[own];
        }
      }
    }
  }
}

// After a release, on the same stream: its step is used up. A step past the last stays where it is.
__global__ void advance_keystream_kernel(int64_t* keystream) {
  const int64_t step = keystream[kStepWord];
  if (step >= 0 && step < kStepLimit) keystream[kStepWord] = step + 1;
}

}  // namespace adpfl
