// The CPU kernels, written once in vectors of ADPFL_LANES 32-bit words (GCC and clang vector extensions) and
// compiled once per instruction set. Everything is in an unnamed namespace and no standard template is used: a
// function shared with code compiled for another instruction set could be linked in its place.
//
// No line here may be reassociated or contracted: the build passes -ffp-contract=off and no fast-math.
#include <math.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "lanes.h"

namespace adpfl {
namespace {

constexpr int kWidth = ADPFL_LANES;

typedef uint32_t Words __attribute__((vector_size(4 * ADPFL_LANES)));
typedef int32_t Mask __attribute__((vector_size(4 * ADPFL_LANES)));  // 0 or -1 a lane
typedef uint64_t WideWords __attribute__((vector_size(8 * ADPFL_LANES)));

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

inline Words all(uint32_t word) { return Words{} + word; }

inline Words lane_numbers() {
  Words lanes;
  for (int lane = 0; lane < kWidth; ++lane) lanes[lane] = lane;
  return lanes;
}

inline Words gather(const uint32_t* table, Words index) {
#if ADPFL_LANES == 16
  return (Words)_mm512_i32gather_epi32((__m512i)index, table, 4);
#elif ADPFL_LANES == 8
  return (Words)_mm256_i32gather_epi32((const int*)table, (__m256i)index, 4);
#else
  Words found;
  for (int lane = 0; lane < kWidth; ++lane) found[lane] = table[index[lane]];
  return found;
#endif
}

inline bool any(Words flags) {
#if ADPFL_LANES == 16
  return _mm512_test_epi32_mask((__m512i)flags, (__m512i)flags) != 0;
#elif ADPFL_LANES == 8
  return !_mm256_testz_si256((__m256i)flags, (__m256i)flags);
#else
  uint32_t seen = 0;
  for (int lane = 0; lane < kWidth; ++lane) seen |= flags[lane];
  return seen != 0;
#endif
}

// Bit l of the result is lane l of a mask.
inline uint32_t bits_of(Mask mask) {
#if ADPFL_LANES == 16
  return _mm512_movepi32_mask((__m512i)mask);
#elif ADPFL_LANES == 8
  return _mm256_movemask_ps((__m256)mask);
#else
  uint32_t bits = 0;
  for (int lane = 0; lane < kWidth; ++lane) bits |= (mask[lane] & 1u) << lane;
  return bits;
#endif
}

// Lanes of `a` and `b` in turn: the lower halves, or the upper ones.
template <bool kUpper>
inline Words zipped(Words a, Words b) {
  Mask order;
  for (int lane = 0; lane < kWidth; ++lane) order[lane] = lane / 2 + kWidth * (lane % 2) + (kUpper ? kWidth / 2 : 0);
  return __builtin_shuffle(a, b, order);
}

// Lane l of vector v moves to place kCount * l + v of all of them: each riffle of the two halves turns an index's top
// bit into its lowest.
template <int kCount>
inline void interleave(Words* vectors) {
  Words riffled[kCount];
  for (int riffle = 1; riffle < kCount; riffle *= 2) {
#pragma GCC unroll 8
    for (int place = 0; place < kCount / 2; ++place) {
      riffled[2 * place] = zipped<false>(vectors[place], vectors[place + kCount / 2]);
      riffled[2 * place + 1] = zipped<true>(vectors[place], vectors[place + kCount / 2]);
    }
#pragma GCC unroll 8
    for (int place = 0; place < kCount; ++place) vectors[place] = riffled[place];
  }
}

// ---- Reading gradients ----------------------------------------------------------------------------------

inline float bfloat16_to_float(uint16_t bits) {
  uint32_t wide = uint32_t{bits} << 16;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}

// binary16 to binary32, exact for every number; NaN stays NaN. Multiplying by 2^112 moves the exponent's bias, also
// for subnormal numbers.
inline float float16_to_float(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  uint32_t rest = uint32_t{bits & 0x7fffu} << 13;
  if ((bits & 0x7c00u) == 0x7c00u) {
    rest |= 0x7f800000u;  // infinite or NaN
  } else {
    float value;
    memcpy(&value, &rest, 4);
    value *= 0x1p112f;
    memcpy(&rest, &value, 4);
  }
  rest |= sign;
  float value;
  memcpy(&value, &rest, 4);
  return value;
}

void widen_bfloat16(const uint16_t* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = bfloat16_to_float(from[i]);
}

void widen_float16(const uint16_t* from, int64_t count, float* to) {
  int64_t i = 0;
#if ADPFL_LANES == 16
  for (; i + 16 <= count; i += 16)
    _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)(from + i))));
#elif ADPFL_LANES == 8
  for (; i + 8 <= count; i += 8) _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(from + i))));
#endif
  for (; i < count; ++i) to[i] = float16_to_float(from[i]);
}

// `count` numbers of a row from `start` on, as float32: in place, or widened into `buffer`.
inline const float* as_floats(const void* row, ScalarType type, int64_t start, int64_t count, float* buffer) {
  if (type == ScalarType::kFloat32) return static_cast<const float*>(row) + start;
  const uint16_t* halves = static_cast<const uint16_t*>(row) + start;
  if (type == ScalarType::kBFloat16) {
    widen_bfloat16(halves, count, buffer);
  } else {
    widen_float16(halves, count, buffer);
  }
  return buffer;
}

// ---- Norms ----------------------------------------------------------------------------------------------

// Lanes that a lane sum of `count` terms needs: absent ones hold +0 and change nothing.
inline int64_t used_lanes(int64_t count) {
  int64_t used = 1;
  while (used < count && used < kLanes) used *= 2;
  return used;
}

inline double tree(double* lanes, int64_t used) {
  for (int64_t half = used / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

inline double term(float value, bool squares) {
  const double wide = value;
  return squares ? wide * wide : fabs(wide);
}

// Adds up to kRows rows of kLanes numbers to the lanes, in order.
constexpr int64_t kRows = 4;

template <bool kSquares>
inline void add_rows(const float* x, int64_t count, double* __restrict lanes) {
  if (count == kRows * kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      double sum = lanes[lane] + term(x[lane], kSquares);
      sum += term(x[lane + kLanes], kSquares);
      sum += term(x[lane + 2 * kLanes], kSquares);
      lanes[lane] = sum + term(x[lane + 3 * kLanes], kSquares);
    }
    return;
  }
  for (int64_t start = 0; start < count; start += kLanes) {
    const int64_t row = smaller(kLanes, count - start);
    for (int64_t lane = 0; lane < row; ++lane) lanes[lane] += term(x[start + lane], kSquares);
  }
}

double partial_norm(const void* row, ScalarType type, int64_t count, int order) {
  alignas(64) double lanes[kLanes];
  alignas(64) float buffer[kRows * kLanes];
  const int64_t used = used_lanes(count);
  memset(lanes, 0, used * sizeof(double));
  for (int64_t start = 0; start < count; start += kRows * kLanes) {
    const int64_t piece = smaller(kRows * kLanes, count - start);
    const float* x = as_floats(row, type, start, piece, buffer);
    if (order == 2) {
      add_rows<true>(x, piece, lanes);
    } else {
      add_rows<false>(x, piece, lanes);
    }
  }
  return tree(lanes, used);
}

double lane_sum(const double* terms, int64_t count) {
  alignas(64) double lanes[kLanes];
  const int64_t used = used_lanes(count);
  memset(lanes, 0, used * sizeof(double));
  for (int64_t start = 0; start < count; start += kLanes) {
    const int64_t row = smaller(kLanes, count - start);
    for (int64_t lane = 0; lane < row; ++lane) lanes[lane] += terms[start + lane];
  }
  return tree(lanes, used);
}

// ---- Keystream ------------------------------------------------------------------------------------------

struct Stream {
  const uint32_t* key;
  uint32_t head;  // bytes 0-3 of the nonce
  uint32_t segment;
  uint32_t step;
};

// Left rotation. AVX-512 has it, which GCC does not see by itself; on AVX2 whole bytes move in one shuffle.
template <int kBits>
inline Words rotate(Words x) {
#if ADPFL_LANES == 16
  return (Words)_mm512_rol_epi32((__m512i)x, kBits);
#elif ADPFL_LANES == 8
  if (kBits == 16 || kBits == 8) {
    const __m128i lane = kBits == 16 ? _mm_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)
                                     : _mm_setr_epi8(3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14);
    return (Words)_mm256_shuffle_epi8((__m256i)x, _mm256_broadcastsi128_si256(lane));
  }
#endif
  return (x << kBits) | (x >> (32 - kBits));
}

inline void quarter_round(Words& a, Words& b, Words& c, Words& d) {
  a += b;
  d = rotate<16>(d ^ a);
  c += d;
  b = rotate<12>(b ^ c);
  a += b;
  d = rotate<8>(d ^ a);
  c += d;
  b = rotate<7>(b ^ c);
}

// ChaCha20 (RFC 8439, section 2.3): lane l of words[w] is word w of block counter[l].
inline void keystream(const Stream& stream, Words counter, Words words[16]) {
  Words state[16] = {all(0x61707865), all(0x3320646e), all(0x79622d32), all(0x6b206574)};
  for (int word = 0; word < 8; ++word) state[4 + word] = all(stream.key[word]);
  state[12] = counter;
  state[13] = all(stream.head);
  state[14] = all(stream.segment);
  state[15] = all(stream.step);
  Words x0 = state[0], x1 = state[1], x2 = state[2], x3 = state[3], x4 = state[4], x5 = state[5], x6 = state[6],
        x7 = state[7], x8 = state[8], x9 = state[9], x10 = state[10], x11 = state[11], x12 = state[12],
        x13 = state[13], x14 = state[14], x15 = state[15];
  for (int round = 0; round < 10; ++round) {
    quarter_round(x0, x4, x8, x12);
    quarter_round(x1, x5, x9, x13);
    quarter_round(x2, x6, x10, x14);
    quarter_round(x3, x7, x11, x15);
    quarter_round(x0, x5, x10, x15);
    quarter_round(x1, x6, x11, x12);
    quarter_round(x2, x7, x8, x13);
    quarter_round(x3, x4, x9, x14);
  }
  words[0] = x0 + state[0], words[1] = x1 + state[1], words[2] = x2 + state[2], words[3] = x3 + state[3];
  words[4] = x4 + state[4], words[5] = x5 + state[5], words[6] = x6 + state[6], words[7] = x7 + state[7];
  words[8] = x8 + state[8], words[9] = x9 + state[9], words[10] = x10 + state[10], words[11] = x11 + state[11];
  words[12] = x12 + state[12], words[13] = x13 + state[13], words[14] = x14 + state[14], words[15] = x15 + state[15];
}

// ---- Ties and crowded buckets, one lane at a time: rare ---------------------------------------------------

// The 95 tail bits of a coordinate, shifted left by one, as three words.
__attribute__((noinline)) void tail_bits(const Stream& main, uint32_t coordinate, int digit, uint32_t tail[3]) {
  Stream refinement = main;
  refinement.head |= nonce_head(kRefinement, 0, digit);
  Words words[16];
  keystream(refinement, all(coordinate >> 2), words);
  for (int word = 0; word < 3; ++word) tail[word] = words[4 * (coordinate & 3) + word][0];
  tail[2] &= ~1u;
}

inline bool at_most(const uint32_t a[3], const uint32_t b[3]) {
  for (int word = 0; word < 3; ++word) {
    if (a[word] != b[word]) return a[word] < b[word];
  }
  return true;
}

// The count of thresholds at or below U.V.
__attribute__((noinline)) uint32_t settle_digit(const Stream& stream, const uint32_t* exact, uint32_t coordinate,
                                                int digit, uint32_t leading) {
  int low = 0, high = kThresholds;  // the first threshold whose leading bits are not below U
  while (low < high) {
    const int middle = (low + high) / 2;
    if (exact[kThresholdWords * middle] < leading) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low == kThresholds || exact[kThresholdWords * low] != leading) return low;
  uint32_t tail[3];
  tail_bits(stream, coordinate, digit, tail);
  while (low < kThresholds && exact[kThresholdWords * low] == leading &&
         at_most(&exact[kThresholdWords * low + 1], tail)) {
    ++low;
  }
  return low;
}

// ---- Laplace draws --------------------------------------------------------------------------------------

// y = K + 1/2 with a sign: bits 0-29 of K and the sign in bit 31, and K's bits from 30 on.
struct Draw {
  Words low;
  Words high;
};

// Draws of one vector of coordinates, words[m] for digit m. The sign is bit 0 of word 0.
template <int kDigits>
inline Draw laplace(const Stream& stream, const uint32_t* tables, Words coordinates, const Words* words) {
  Draw draw = {words[0] << 31, Words{}};
  Words unsettled = {};
#pragma GCC unroll 4
  for (int m = 0; m < kDigits; ++m) {
    const uint32_t* guide = tables + m * kDigitTableWords;
    const Words uniform = words[m] >> 1;
    const Words entry = gather(guide, uniform >> kGuideShift);
    const Words rest = uniform & ((1u << kGuideShift) - 1);
    const Words next = entry & ((2u << kGuideShift) - 1);
    const Words digit = ((entry >> 21) & kThresholds) - (Words)(rest >= next);
    unsettled |= (((Words)(rest == next) & 1u) | (entry >> 31)) << m;
    if (m < 3) {
      draw.low |= digit << (kDigitBits * m);
    } else {
      draw.high = digit;
    }
  }
  if (__builtin_expect(any(unsettled), 0)) {
    for (int lane = 0; lane < kWidth; ++lane) {
      for (int m = 0; m < kDigits; ++m) {
        if (!(unsettled[lane] >> m & 1)) continue;
        const uint32_t* exact = tables + m * kDigitTableWords + kGuideWords;
        const uint32_t digit = settle_digit(stream, exact, coordinates[lane], m, words[m][lane] >> 1);
        if (m < 3) {
          draw.low[lane] = (draw.low[lane] & ~(uint32_t{kThresholds} << kDigitBits * m)) | digit << kDigitBits * m;
        } else {
          draw.high[lane] = digit;
        }
      }
    }
  }
  return draw;
}

// A tile's draws in the order of the coordinates.
struct TileDraws {
  alignas(64) uint32_t low[kTile];
  alignas(64) uint32_t high[kTile];
};

template <int kDigits, int kWordsEach>
void laplace_tile(const Stream& stream, const uint32_t* tables, uint32_t first, int64_t count, TileDraws& draws) {
  constexpr int kEach = 16 / kWordsEach;  // coordinates of a block
  const Words lanes = lane_numbers();
  for (int64_t start = 0; start < count; start += kEach * kWidth) {
    Words words[16];
    const uint32_t coordinate = first + static_cast<uint32_t>(start);
    keystream(stream, all(coordinate / kEach) + lanes, words);
    Words low[kEach], high[kEach];
#pragma GCC unroll 8
    for (int place = 0; place < kEach; ++place) {
      const Words coordinates = all(coordinate + place) + lanes * kEach;
      const Draw draw = laplace<kDigits>(stream, tables, coordinates, words + kWordsEach * place);
      low[place] = draw.low;
      high[place] = draw.high;
    }
    interleave<kEach>(low);
    memcpy(draws.low + start, low, sizeof low);
    if (kDigits > 3) {
      interleave<kEach>(high);
      memcpy(draws.high + start, high, sizeof high);
    }
  }
}

// ---- Gaussian draws -------------------------------------------------------------------------------------

__attribute__((noinline)) bool settle_piece(const Stream& stream, const uint32_t* tail_threshold, uint32_t coordinate,
                                            int piece) {
  uint32_t tail[3];
  tail_bits(stream, coordinate, piece, tail);
  return !at_most(tail_threshold, tail);  // V < T
}

// All ones in the lanes whose proposal K passes: see adpfl/kernels/lattice.py.
template <int kScaleBits>
inline Mask accepted(const Stream& stream, const uint32_t* tables, Words coordinates, Words magnitude,
                     const Words* words) {
  const WideWords odd = __builtin_convertvector(magnitude, WideWords) * 2 + 1;
  const WideWords distance = odd - (uint64_t{2} << kScaleBits);
  WideWords rest = distance * distance;
  const uint32_t* leading = tables + digit_count(kScaleBits) * kDigitTableWords;
  Mask pass = ~Mask{};
  Words unsettled = {};
  Words pieces[kPieces];
#pragma GCC unroll 4
  for (int piece = 0; piece < kPieces; ++piece) {
    const int width = piece_width(kScaleBits, piece);
    pieces[piece] = __builtin_convertvector(rest & ((uint64_t{1} << width) - 1), Words);
    const Words threshold = gather(leading, pieces[piece]);
    const Words uniform = words[piece] >> 1;
    pass &= (Mask)(uniform < threshold);
    unsettled |= ((Words)(uniform == threshold) & 1u) << piece;
    rest >>= width;
    leading += int64_t{4} << width;
  }
  const WideWords outside = (WideWords)(rest != 0);
  pass &= ~(Mask)__builtin_convertvector(outside, Words);
  if (__builtin_expect(any(unsettled), 0)) {
    for (int lane = 0; lane < kWidth; ++lane) {
      if (!unsettled[lane] || rest[lane] != 0) continue;
      bool passes = true;
      leading = tables + digit_count(kScaleBits) * kDigitTableWords;
      for (int piece = 0; piece < kPieces; ++piece) {
        const int64_t size = int64_t{1} << piece_width(kScaleBits, piece);
        const uint32_t at = pieces[piece][lane];
        const uint32_t uniform = words[piece][lane] >> 1;
        passes = passes && (uniform == leading[at]
                                ? settle_piece(stream, leading + size + 3 * int64_t{at}, coordinates[lane], piece)
                                : uniform < leading[at]);
        leading += 4 * size;
      }
      pass[lane] = passes ? -1 : 0;
    }
  }
  return pass;
}

// words[m] of each lane's own coordinate, out of the block that holds it.
inline void own_words(const Words block[16], Words coordinates, Words words[4]) {
  const Words place = coordinates & 3u;
  for (int m = 0; m < 4; ++m) {
    const Words low = (place & 1u) ? block[4 + m] : block[m];
    const Words high = (place & 1u) ? block[12 + m] : block[8 + m];
    words[m] = (place & 2u) ? high : low;
  }
}

constexpr uint32_t kLowBits = (1u << 30) - 1;

template <int kScaleBits>
bool gaussian_tile(Stream stream, const uint32_t* tables, uint32_t first, int64_t count, TileDraws& draws) {
  constexpr int kDigits = digit_count(kScaleBits);
  Stream acceptance = stream;
  uint32_t waiting[kTile + kWidth];  // and room to fill the last vector
  int64_t waiting_count = 0;
  const Words lanes = lane_numbers();
  stream.head = nonce_head(kGaussianProposal, 0, 0);
  acceptance.head = nonce_head(kGaussianAcceptance, 0, 0);
  for (int64_t start = 0; start < count; start += 4 * kWidth) {
    Words proposal[16], trial[16];
    const uint32_t coordinate = first + static_cast<uint32_t>(start);
    keystream(stream, all(coordinate / 4) + lanes, proposal);
    keystream(acceptance, all(coordinate / 4) + lanes, trial);
    Words low[4];
#pragma GCC unroll 4
    for (int place = 0; place < 4; ++place) {
      const Words coordinates = all(coordinate + place) + lanes * 4;
      low[place] = laplace<kDigits>(stream, tables, coordinates, proposal + 4 * place).low;
      const Mask pass = accepted<kScaleBits>(acceptance, tables, coordinates, low[place] & kLowBits, trial + 4 * place);
      for (uint32_t failed = bits_of(~pass); failed != 0; failed &= failed - 1) {
        const int64_t at = start + 4 * __builtin_ctz(failed) + place;
        waiting[waiting_count] = static_cast<uint32_t>(at);
        waiting_count += at < count;
      }
    }
    interleave<4>(low);
    memcpy(draws.low + start, low, sizeof low);
  }
  for (uint32_t attempt = 1; waiting_count > 0; ++attempt) {
    if (attempt == 256) return false;
    stream.head = nonce_head(kGaussianProposal, attempt, 0);
    acceptance.head = nonce_head(kGaussianAcceptance, attempt, 0);
    int64_t left = 0;
    for (int lane = 0; lane < kWidth; ++lane) waiting[waiting_count + lane] = waiting[waiting_count - 1];
    for (int64_t start = 0; start < waiting_count; start += kWidth) {
      Words block[16], words[4], places;
      memcpy(&places, waiting + start, sizeof places);
      const Words coordinates = all(first) + places;
      keystream(stream, coordinates >> 2, block);
      own_words(block, coordinates, words);
      const Draw draw = laplace<kDigits>(stream, tables, coordinates, words);
      keystream(acceptance, coordinates >> 2, block);
      own_words(block, coordinates, words);
      const Mask pass = accepted<kScaleBits>(acceptance, tables, coordinates, draw.low & kLowBits, words);
      for (int lane = 0; lane < smaller(kWidth, waiting_count - start); ++lane) {
        const uint32_t at = waiting[start + lane];
        draws.low[at] = draw.low[lane];
        waiting[left] = at;
        left += pass[lane] == 0;
      }
    }
    waiting_count = left;
  }
  return true;
}

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
