// Dropout by counted random bits (Threefry 2x32 with 20 rounds: Salmon et al. 2011, "Parallel random numbers: as easy as
// 1, 2, 3", section 4.2, with the rotations of its table 2), so that any pass makes the bits of any row anew.
#pragma once
#include <stdint.h>

// Four rounds by so many turns, then the key, counted
#define DROPPED_ROUND(turn) a += b, b = (b << (turn) | b >> (32 - (turn))) ^ a;
#define DROPPED_ROUNDS(t1, t2, t3, t4, first, second, count)                                                           \
  DROPPED_ROUND(t1) DROPPED_ROUND(t2) DROPPED_ROUND(t3) DROPPED_ROUND(t4) a += keys[first], b += keys[second] + (count);

// x[j] = 0 where the bits of number first + j of a row are less than `dropped`, else `kept`, for j < n; x has room for two
// numbers more. Returns where they begin. The words of counter (i, row) are the bits of numbers 2i and 2i + 1.
static inline const float *drop_factors(float *restrict x, const uint32_t *key, uint32_t row, int64_t first, int64_t n,
                                        uint32_t dropped, float kept) {
  const uint32_t keys[3] = {key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDAu}, low = (uint32_t)(first / 2);
  int64_t pairs = n ? (first + n - 1) / 2 - first / 2 + 1 : 0;
  for (int64_t i = 0; i < pairs; i++) {
    uint32_t a = low + (uint32_t)i + keys[0], b = row + keys[1];
    DROPPED_ROUNDS(13, 15, 26, 6, 1, 2, 1)
    DROPPED_ROUNDS(17, 29, 16, 24, 2, 0, 2)
    DROPPED_ROUNDS(13, 15, 26, 6, 0, 1, 3)
    DROPPED_ROUNDS(17, 29, 16, 24, 1, 2, 4)
    DROPPED_ROUNDS(13, 15, 26, 6, 2, 0, 5)
    x[2 * i] = a < dropped ? 0.0f : kept;
    x[2 * i + 1] = b < dropped ? 0.0f : kept;
  }
  return x + first % 2;
}
