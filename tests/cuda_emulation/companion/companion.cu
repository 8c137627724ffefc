// Two kernels that use what the project's own do not: a barrier of a warp, and fences between blocks. They are here so
// that the sanitizers' account of both is tested, with the constructs in place and with each taken away.
#include <cuda_runtime.h>
#include <stdint.h>

namespace companion {

constexpr int kThreads = 64;

// Each warp's numbers in reverse order.
__global__ void __launch_bounds__(kThreads) reverse_kernel(const uint32_t* numbers, uint32_t* reversed) {
  __shared__ uint32_t shared[kThreads];
  const uint32_t place = blockIdx.x * kThreads + threadIdx.x;
  shared[threadIdx.x] = numbers[place];
  __syncwarp();
  reversed[place] = shared[threadIdx.x ^ 31];
}

// The sum of all numbers by the block that finishes last. `ticket` is 0 before.
__global__ void __launch_bounds__(kThreads) sum_kernel(const uint32_t* numbers, uint32_t* partials, uint32_t* ticket,
                                                       uint32_t* sum) {
  __shared__ uint32_t total;
  __shared__ bool is_last;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  atomicAdd(&total, numbers[blockIdx.x * kThreads + threadIdx.x]);
  __syncthreads();
  if (threadIdx.x == 0) {
    partials[blockIdx.x] = total;
    __threadfence();  // the partial sum before the ticket
    is_last = atomicAdd(ticket, 1u) == gridDim.x - 1;
    __threadfence();  // the ticket before the others' partial sums
    total = 0;
  }
  __syncthreads();
  if (!is_last) return;
  for (uint32_t block = threadIdx.x; block < gridDim.x; block += kThreads) atomicAdd(&total, partials[block]);
  __syncthreads();
  if (threadIdx.x == 0) *sum = total;
}

}  // namespace companion

extern "C" {

int companion_reverse(const uint32_t* numbers, uint32_t* reversed, int64_t blocks) {
  companion::reverse_kernel<<<static_cast<unsigned int>(blocks), companion::kThreads>>>(numbers, reversed);
  return cudaGetLastError();
}

int companion_sum(const uint32_t* numbers, uint32_t* partials, uint32_t* ticket, uint32_t* sum, int64_t blocks) {
  companion::sum_kernel<<<static_cast<unsigned int>(blocks), companion::kThreads>>>(numbers, partials, ticket, sum);
  return cudaGetLastError();
}
}
