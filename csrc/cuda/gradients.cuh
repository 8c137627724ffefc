// Reading gradients on the device: 16 bytes at a time wherever a row's place in memory allows.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "../dp_release.h"

namespace adpfl {

struct TensorTable {
  UnitTensor tensors[kTensorsPerLaunch];
  int32_t count;
};

__device__ __forceinline__ float as_float(float value) { return value; }
__device__ __forceinline__ float as_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float as_float(__nv_bfloat16 value) {
  return __uint_as_float(static_cast<uint32_t>(__bfloat16_as_ushort(value)) << 16);
}

__device__ __forceinline__ float low_half(uint32_t pair, __half) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(pair)));
}
__device__ __forceinline__ float high_half(uint32_t pair, __half) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(pair >> 16)));
}
__device__ __forceinline__ float low_half(uint32_t pair, __nv_bfloat16) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_half(uint32_t pair, __nv_bfloat16) {
  return __uint_as_float(pair & 0xffff0000u);
}

// The numbers of one 16-byte vector: four, or eight halves.
__device__ __forceinline__ void unpack(const uint4& vector, float, float (&values)[4]) {
  values[0] = __uint_as_float(vector.x), values[1] = __uint_as_float(vector.y);
  values[2] = __uint_as_float(vector.z), values[3] = __uint_as_float(vector.w);
}
template <typename Half>
__device__ __forceinline__ void unpack(const uint4& vector, Half kind, float (&values)[8]) {
  values[0] = low_half(vector.x, kind), values[1] = high_half(vector.x, kind);
  values[2] = low_half(vector.y, kind), values[3] = high_half(vector.y, kind);
  values[4] = low_half(vector.z, kind), values[5] = high_half(vector.z, kind);
  values[6] = low_half(vector.w, kind), values[7] = high_half(vector.w, kind);
}

template <typename Number>
constexpr int kPerVector = 16 / sizeof(Number);

// Numbers by which `row` lies behind a 16-byte boundary.
template <typename Number>
__device__ __forceinline__ int misalignment(const Number* row) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(row) / sizeof(Number) % kPerVector<Number>);
}

// The vector of numbers [start, start + kPerVector) of a row of `count`; start may be negative, and absent numbers
// are +0. Row + start lies on a 16-byte boundary; nothing outside the row is touched.
template <typename Number>
__device__ __forceinline__ void load_vector(const Number* __restrict__ row, int64_t start, int64_t count,
                                            float (&values)[kPerVector<Number>]) {
  if (start >= 0 && start + kPerVector<Number> <= count) {
    unpack(__ldg(reinterpret_cast<const uint4*>(row + start)), Number{}, values);
    return;
  }
#pragma unroll
  for (int place = 0; place < kPerVector<Number>; ++place) {
    const bool inside = start + place >= 0 && start + place < count;
    values[place] = inside ? as_float(row[start + place]) : 0.0f;
  }
}

}  // namespace adpfl
