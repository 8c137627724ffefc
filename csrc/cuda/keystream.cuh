// ChaCha20 on registers: one block a thread (RFC 8439, section 2.3).
#pragma once

#include "../dp_release.h"

namespace adpfl {

struct Stream {
  uint32_t key[8];
  uint32_t head;  // bytes 0-3 of the nonce
  uint32_t segment;
  uint32_t step;
};

__device__ __forceinline__ uint32_t rotate(uint32_t x, int bits) { return __funnelshift_l(x, x, bits); }

__device__ __forceinline__ void quarter_round(uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d) {
  a += b;
  d = rotate(d ^ a, 16);
  c += d;
  b = rotate(b ^ c, 12);
  a += b;
  d = rotate(d ^ a, 8);
  c += d;
  b = rotate(b ^ c, 7);
}

__device__ __forceinline__ void keystream_block(const Stream& stream, uint32_t head, uint32_t counter,
                                                uint32_t (&words)[16]) {
  const uint32_t constants[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
  const uint32_t ends[4] = {counter, head, stream.segment, stream.step};
#pragma unroll
  for (int word = 0; word < 4; ++word) {
    words[word] = constants[word];
    words[4 + word] = stream.key[word];
    words[8 + word] = stream.key[4 + word];
    words[12 + word] = ends[word];
  }
#pragma unroll 1
  for (int round = 0; round < 10; ++round) {
    quarter_round(words[0], words[4], words[8], words[12]);
    quarter_round(words[1], words[5], words[9], words[13]);
    quarter_round(words[2], words[6], words[10], words[14]);
    quarter_round(words[3], words[7], words[11], words[15]);
    quarter_round(words[0], words[5], words[10], words[15]);
    quarter_round(words[1], words[6], words[11], words[12]);
    quarter_round(words[2], words[7], words[8], words[13]);
    quarter_round(words[3], words[4], words[9], words[14]);
  }
#pragma unroll
  for (int word = 0; word < 4; ++word) {
    words[word] += constants[word];
    words[4 + word] += stream.key[word];
    words[8 + word] += stream.key[4 + word];
    words[12 + word] += ends[word];
  }
}

// words[4 * place + word], without an indexed array: registers have no addresses.
__device__ __forceinline__ uint32_t pick(const uint32_t (&words)[16], uint32_t index) {
  uint32_t found = words[0];
#pragma unroll
  for (int word = 1; word < 16; ++word) found = index == word ? words[word] : found;
  return found;
}

}  // namespace adpfl
