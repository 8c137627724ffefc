// The CPU kernels, written once in vectors of words and compiled once per instruction set, by lanes_*.cpp. Everything,
// here and in words.h, norms.h and draws.h, is in an unnamed namespace, and no standard template is used: a function
// shared with code compiled for another instruction set could be linked in its place.
//
// No line may be reassociated or contracted: the build passes -ffp-contract=off and no fast-math.
#include "draws.h"
#include "lanes.h"
#include "norms.h"
#include "words.h"

namespace adpfl {
namespace {

// ---- A tile ---------------------------------------------------------------------------------------------

// sum += trunc(x * factor), which is below 2^41.
inline void add_row(const float* x, int64_t count, double factor, int64_t* __restrict sum) {
  int64_t i = 0;
#if ADPFL_LANES == 8
  // AVX2 has no conversion to 64-bit integers: in 2^52 + 2^51 + v the integer v stands in the low bits.
  const __m256d shift = _mm256_set1_pd(0x1.8p52), factors = _mm256_set1_pd(factor);
  for (; i + 4 <= count; i += 4) {
    const __m256d product = _mm256_mul_pd(_mm256_cvtps_pd(_mm_loadu_ps(x + i)), factors);
    const __m256d whole = _mm256_round_pd(product, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
    const __m256i v = _mm256_sub_epi64(_mm256_castpd_si256(_mm256_add_pd(whole, shift)), _mm256_castpd_si256(shift));
    __m256i* at = reinterpret_cast<__m256i*>(sum + i);
    _mm256_storeu_si256(at, _mm256_add_epi64(_mm256_loadu_si256(at), v));
  }
#endif
  for (; i < count; ++i) sum[i] += static_cast<int64_t>(static_cast<double>(x[i]) * factor);
}

void add_tensor(const UnitTensor& tensor, const SumAndRelease& work, int64_t from, int64_t count, int64_t* sum) {
  alignas(64) float buffer[kTile];
  const int64_t width = tensor.type == ScalarType::kFloat32 ? 4 : 2;
  for (int64_t unit = 0; unit < work.gradients.units; ++unit) {
    if (work.factors[unit] == 0) continue;
    const char* row = static_cast<const char*>(tensor.data) + unit * tensor.unit_stride * width;
    add_row(as_floats(row, tensor.type, from, count, buffer), count, work.factors[unit], sum);
  }
}

void add_gradients(const SumAndRelease& work, int64_t first, int64_t count, int64_t* sum) {
  const Gradients& gradients = work.gradients;
  int64_t low = 0, high = gradients.tensor_count;  // the first tensor that ends after `first`
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    const UnitTensor& tensor = gradients.tensors[middle];
    if (tensor.first_index + tensor.elements <= first) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  for (; low < gradients.tensor_count && gradients.tensors[low].first_index < first + count; ++low) {
    const UnitTensor& tensor = gradients.tensors[low];
    const int64_t begin = larger(first, tensor.first_index);
    const int64_t end = smaller(first + count, tensor.first_index + tensor.elements);
    if (begin < end) add_tensor(tensor, work, begin - tensor.first_index, end - begin, sum + (begin - first));
  }
}

bool draw_tile(const SumAndRelease& work, int64_t first, int64_t count, TileDraws& draws) {
  const Stream stream = {work.key, nonce_head(kLaplace, 0, 0), static_cast<uint32_t>(first >> kSegmentBits), work.step};
  const uint32_t within = static_cast<uint32_t>(first & ((int64_t{1} << kSegmentBits) - 1));
  const uint32_t* tables = work.noise.tables;
  if (work.noise.gaussian) {
    return work.noise.scale_bits == 20 ? gaussian_tile<20>(stream, tables, within, count, draws)
                                       : gaussian_tile<10>(stream, tables, within, count, draws);
  }
  if (work.noise.scale_bits == 10) {
    laplace_tile<2, 2>(stream, tables, within, count, draws);
  } else if (work.noise.scale_bits == 20) {
    laplace_tile<3, 4>(stream, tables, within, count, draws);
  } else {
    laplace_tile<4, 4>(stream, tables, within, count, draws);
  }
  return true;
}

// float32(float64(2 v + 2 y) * factor)
template <bool kHigh>
inline void finish(const int64_t* sum, const TileDraws& draws, int64_t count, double factor, float* noised) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t negative = -static_cast<int64_t>(draws.low[i] >> 31);
    int64_t odd = 2 * static_cast<int64_t>(draws.low[i] & kLowBits) + 1;
    if (kHigh) odd += static_cast<int64_t>(draws.high[i]) << 31;
    const int64_t released = 2 * sum[i] + ((odd ^ negative) - negative);
    noised[i] = static_cast<float>(static_cast<double>(released) * factor);
  }
}

bool tile(const SumAndRelease& work, int64_t index) {
  const int64_t first = index * kTile;
  const int64_t count = smaller(kTile, work.gradients.dimension - first);
  alignas(64) int64_t sum[kTile];
  if (work.total_in) {
    memcpy(sum, work.total_in + first, count * sizeof(int64_t));
  } else {
    memset(sum, 0, count * sizeof(int64_t));
  }
  if (work.gradients.units > 0) add_gradients(work, first, count, sum);
  if (work.total_out) memcpy(work.total_out + first, sum, count * sizeof(int64_t));
  if (!work.noised) return true;
  TileDraws draws;
  if (!draw_tile(work, first, count, draws)) return false;
  if (work.noise.scale_bits == 30) {
    finish<true>(sum, draws, count, work.release_factor, work.noised + first);
  } else {
    finish<false>(sum, draws, count, work.release_factor, work.noised + first);
  }
  return true;
}

}  // namespace

const LaneKernels ADPFL_LANES_TABLE = {ADPFL_LANES_NAME, partial_norm, lane_sum, tile};

}  // namespace adpfl
