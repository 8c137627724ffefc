// ChaCha20, and exact Laplace and Gaussian draws for a tile; the law and the tables are those of
// adpfl/kernels/lattice.py. Part of lanes_kernels.h; see there.
#pragma once

#include "lanes.h"
#include "words.h"

namespace adpfl {
namespace {

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

}  // namespace
}  // namespace adpfl
