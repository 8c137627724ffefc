// Exact Laplace and Gaussian draws for a tile; the law and the tables are those of adpfl/kernels/lattice.py.
#pragma once

#include "keystream.cuh"

namespace adpfl {

constexpr int kThreads = 256;
constexpr int kOwn = 8;  // consecutive coordinates of a thread: a 16-byte load of halves, one or two blocks of words
constexpr int kDeviceTile = kThreads * kOwn;

// A digit as the guide tells it, and whether the exact thresholds must be asked.
struct Guided {
  uint32_t digit;
  bool unsettled;
};

__device__ __forceinline__ Guided guided_digit(const uint32_t* guide, uint32_t uniform) {
  const uint32_t entry = guide[uniform >> kGuideShift];
  const uint32_t rest = uniform & ((1u << kGuideShift) - 1);
  const uint32_t next = entry & ((2u << kGuideShift) - 1);
  return {(entry >> 21 & kThresholds) + (rest >= next), rest == next || entry >> 31 != 0};
}

// The 95 tail bits, shifted left by one.
struct Tail {
  uint32_t high, middle, low;
};

__device__ __forceinline__ Tail tail_bits(const Stream& stream, uint32_t head, uint32_t coordinate, int digit) {
  uint32_t words[16];
  keystream_block(stream, head | nonce_head(kRefinement, 0, digit), coordinate >> 2, words);
  const uint32_t first = 4 * (coordinate & 3);
  return {pick(words, first), pick(words, first + 1), pick(words, first + 2) & ~1u};
}

// Whether the threshold tail at `words` is at or below V.
__device__ __forceinline__ bool at_most(const uint32_t* words, const Tail& tail) {
  if (words[0] != tail.high) return words[0] < tail.high;
  if (words[1] != tail.middle) return words[1] < tail.middle;
  return words[2] <= tail.low;
}

// The count of thresholds at or below U.V: by search, and by the tail where U ties. Rare.
__device__ __forceinline__ uint32_t settled_digit(const Stream& stream, uint32_t head, const uint32_t* exact,
                                                  uint32_t coordinate, int digit, uint32_t uniform) {
  int low = 0, high = kThresholds;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (exact[kThresholdWords * middle] < uniform) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low == kThresholds || exact[kThresholdWords * low] != uniform) return low;
  const Tail tail = tail_bits(stream, head, coordinate, digit);
  while (low < kThresholds && exact[kThresholdWords * low] == uniform &&
         at_most(exact + kThresholdWords * low + 1, tail)) {
    ++low;
  }
  return low;
}

template <int kDigits>
struct Guides {
  uint32_t entries[kDigits * kGuideWords];
};

template <int kDigits>
__device__ __forceinline__ void load_guides(const uint32_t* tables, Guides<kDigits>& guides) {
  for (int word = threadIdx.x; word < kDigits * kGuideWords; word += kThreads) {
    guides.entries[word] = tables[word / kGuideWords * kDigitTableWords + word % kGuideWords];
  }
}

__device__ __forceinline__ int64_t odd_draw(int64_t magnitude, bool negative) {
  const int64_t odd = 2 * magnitude + 1;
  return negative ? -odd : odd;
}

// ---- Laplace ----------------------------------------------------------------------------------------------

// The thread's draws 2y for the kOwn coordinates from `first` on, a multiple of kOwn within its segment.
template <int kScaleBits>
__device__ __forceinline__ void laplace_draws(const Stream& stream, const uint32_t* tables,
                                              const Guides<digit_count(kScaleBits)>& guides, uint32_t first,
                                              int64_t (&draws)[kOwn]) {
  constexpr int kDigits = digit_count(kScaleBits);
  constexpr int kWordsEach = kScaleBits == 10 ? 2 : 4;
  constexpr int kEach = 16 / kWordsEach;
  const uint32_t head = nonce_head(kLaplace, 0, 0);
  uint32_t unsettled = 0;  // bit kDigits * coordinate + digit
#pragma unroll
  for (int block = 0; block < kOwn / kEach; ++block) {
    uint32_t words[16];
    keystream_block(stream, head, first / kEach + block, words);
#pragma unroll
    for (int place = 0; place < kEach; ++place) {
      int64_t magnitude = 0;
#pragma unroll
      for (int digit = 0; digit < kDigits; ++digit) {
        const Guided found =
            guided_digit(guides.entries + digit * kGuideWords, words[kWordsEach * place + digit] >> 1);
        magnitude += static_cast<int64_t>(found.digit) << (kDigitBits * digit);
        unsettled |= static_cast<uint32_t>(found.unsettled) << (kDigits * (kEach * block + place) + digit);
      }
      draws[kEach * block + place] = odd_draw(magnitude, words[kWordsEach * place] & 1);
    }
  }
#pragma unroll 1
  while (unsettled != 0) {
    const int bit = __ffs(unsettled) - 1;
    unsettled &= unsettled - 1;
    const int own = bit / kDigits, digit = bit % kDigits;
    uint32_t words[16];
    keystream_block(stream, head, (first + own) / kEach, words);
    const uint32_t place = own % kEach;
    const uint32_t uniform = pick(words, kWordsEach * place + digit) >> 1;
    const uint32_t guessed = guided_digit(guides.entries + digit * kGuideWords, uniform).digit;
    const uint32_t exact = settled_digit(stream, head, tables + digit * kDigitTableWords + kGuideWords, first + own,
                                         digit, uniform);
    const int64_t change = (static_cast<int64_t>(exact) - guessed) * (int64_t{2} << (kDigitBits * digit));
    const bool negative = pick(words, kWordsEach * place) & 1;
#pragma unroll
    for (int each = 0; each < kOwn; ++each) {
      if (each == own) draws[each] += negative ? -change : change;
    }
  }
}

// ---- Gaussian ---------------------------------------------------------------------------------------------

// A tile's proposals (sign in bit 31, K below) and the coordinates that wait for another attempt.
struct GaussianTile {
  uint32_t proposals[kDeviceTile];
  uint16_t waiting[2][kDeviceTile];
  int waiting_count[2];
};

// One coordinate's proposal from its four words.
template <int kScaleBits>
__device__ __forceinline__ uint32_t propose(const Stream& stream, const uint32_t* tables,
                                            const Guides<digit_count(kScaleBits)>& guides, uint32_t head,
                                            uint32_t coordinate, const uint32_t (&words)[4]) {
  uint32_t magnitude = 0;
#pragma unroll
  for (int digit = 0; digit < digit_count(kScaleBits); ++digit) {
    const uint32_t uniform = words[digit] >> 1;
    Guided found = guided_digit(guides.entries + digit * kGuideWords, uniform);
    if (found.unsettled) {
      found.digit = settled_digit(stream, head, tables + digit * kDigitTableWords + kGuideWords, coordinate, digit,
                                  uniform);
    }
    magnitude |= found.digit << (kDigitBits * digit);
  }
  return words[0] << 31 | magnitude;
}

// Whether a proposal passes: exp(-(2K + 1 - 2S)^2 / 2^(2s+3)), a comparison for each piece of the square.
template <int kScaleBits>
__device__ __forceinline__ bool accepts(const Stream& stream, const uint32_t* tables, uint32_t head,
                                        uint32_t coordinate, uint32_t proposal, const uint32_t (&words)[4]) {
  const int64_t distance =
      2 * static_cast<int64_t>(proposal & 0x7fffffffu) + 1 - (int64_t{2} << kScaleBits);
  uint64_t rest = static_cast<uint64_t>(distance * distance);
  const uint32_t* leading = tables + digit_count(kScaleBits) * kDigitTableWords;
  bool passes = true;
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece) {
    constexpr uint32_t kOne = 1;
    const uint32_t size = kOne << piece_width(kScaleBits, piece);
    const uint32_t at = static_cast<uint32_t>(rest) & (size - 1);
    const uint32_t uniform = words[piece] >> 1;
    const uint32_t threshold = leading[at];
    if (uniform == threshold) {
      const Tail tail = tail_bits(stream, head, coordinate, piece);
      passes = passes && !at_most(leading + size + 3 * at, tail);
    } else {
      passes = passes && uniform < threshold;
    }
    rest >>= piece_width(kScaleBits, piece);
    leading += 4 * size;
  }
  return passes && rest == 0;
}

// Draws of a whole tile into `tile`, by all threads of the block together. False where a coordinate failed 256
// times (probability 1e-158). Ends with a barrier.
template <int kScaleBits>
__device__ __forceinline__ bool gaussian_tile(const Stream& stream, const uint32_t* tables,
                                              const Guides<digit_count(kScaleBits)>& guides, uint32_t first, int count,
                                              GaussianTile& tile) {
  if (threadIdx.x == 0) tile.waiting_count[0] = 0;
  __syncthreads();
  // The first attempt takes every word of its blocks.
#pragma unroll 1
  for (int block = 0; block < kOwn / 4; ++block) {
    const uint32_t own = threadIdx.x * kOwn + 4 * block;
    uint32_t words[16];
    keystream_block(stream, nonce_head(kGaussianProposal, 0, 0), (first + own) / 4, words);
#pragma unroll
    for (int place = 0; place < 4; ++place) {
      const uint32_t mine[4] = {words[4 * place], words[4 * place + 1], words[4 * place + 2], words[4 * place + 3]};
      tile.proposals[own + place] = propose<kScaleBits>(stream, tables, guides, nonce_head(kGaussianProposal, 0, 0),
                                                        first + own + place, mine);
    }
    keystream_block(stream, nonce_head(kGaussianAcceptance, 0, 0), (first + own) / 4, words);
#pragma unroll
    for (int place = 0; place < 4; ++place) {
      const uint32_t mine[4] = {words[4 * place], words[4 * place + 1], words[4 * place + 2], words[4 * place + 3]};
      if (own + place < count && !accepts<kScaleBits>(stream, tables, nonce_head(kGaussianAcceptance, 0, 0),
                                                      first + own + place, tile.proposals[own + place], mine)) {
        tile.waiting[0][atomicAdd(&tile.waiting_count[0], 1)] = own + place;
      }
    }
  }
  // Those that failed are dealt to the threads anew, attempt after attempt.
  bool done = false;
#pragma unroll 1
  for (uint32_t attempt = 1; attempt < 256; ++attempt) {
    const int from = (attempt - 1) & 1, to = attempt & 1;
    __syncthreads();
    const int waiting = tile.waiting_count[from];
    if (threadIdx.x == 0) tile.waiting_count[to] = 0;
    __syncthreads();
    if (waiting == 0) {
      done = true;
      break;
    }
#pragma unroll 1
    for (int place = threadIdx.x; place < waiting; place += kThreads) {
      const uint32_t own = tile.waiting[from][place];
      const uint32_t coordinate = first + own;
      const uint32_t word = 4 * (coordinate & 3);
      uint32_t block[16];
      keystream_block(stream, nonce_head(kGaussianProposal, attempt, 0), coordinate / 4, block);
      const uint32_t mine[4] = {pick(block, word), pick(block, word + 1), pick(block, word + 2),
                                pick(block, word + 3)};
      const uint32_t made = propose<kScaleBits>(stream, tables, guides, nonce_head(kGaussianProposal, attempt, 0),
                                                coordinate, mine);
      keystream_block(stream, nonce_head(kGaussianAcceptance, attempt, 0), coordinate / 4, block);
      const uint32_t against[4] = {pick(block, word), pick(block, word + 1), pick(block, word + 2),
                                   pick(block, word + 3)};
      tile.proposals[own] = made;
      if (!accepts<kScaleBits>(stream, tables, nonce_head(kGaussianAcceptance, attempt, 0), coordinate, made,
                               against)) {
        tile.waiting[to][atomicAdd(&tile.waiting_count[to], 1)] = own;
      }
    }
  }
  return done;
}

}  // namespace adpfl
