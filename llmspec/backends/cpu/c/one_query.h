// One query's scores of many keys, and the sum of their values: float32 where a cache holds them, `step` apart.
//
// What a key adds does not depend on how many there are: a score is summed up in lanes, then over the lanes; a sum of
// values goes through the keys in their order.
#pragma once
#include "gemm.h"

enum { KEYS_TOGETHER = 4, KEYS_AHEAD = 24 };

typedef float Four __attribute__((vector_size(16)));
static inline __attribute__((always_inline)) Four sum_to_four(Lanes x) {
#pragma clang fp reassociate(off)
#if defined(__AVX512F__)
  x += __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
#endif
#if defined(__AVX__)
  return __builtin_shufflevector(x, x, 0, 1, 2, 3) + __builtin_shufflevector(x, x, 4, 5, 6, 7);
#else
  return x;
#endif
}

// row (count) = q · keys, `count` of them
static inline __attribute__((always_inline)) void scores_together(float *row, const float *q, const float *keys, int64_t step,
                                                                  const int count, int64_t d) {
#pragma clang fp reassociate(off)
  Lanes sums[KEYS_TOGETHER] = {{0}};
  int64_t u = 0;
  for (; u + LANES <= d; u += LANES) {
    Lanes x = *(const Loose *)(q + u);
#pragma clang loop unroll(full)
    for (int j = 0; j < count; j++) sums[j] += x * *(const Loose *)(keys + j * step + u);
  }
#pragma clang loop unroll(full)
  for (int j = 0; j < count; j++) {
    Four last = sum_to_four(sums[j]);
    float sum = (last[0] + last[2]) + (last[1] + last[3]);
    for (int64_t rest = u; rest < d; rest++) sum += q[rest] * keys[j * step + rest];
    row[j] = sum;
  }
}

// row (n) = q (d) · keys, while later keys, and the values of these, are prefetched: between two tokens a model's weights
// have passed through the caches, and hardware prefetchers do not follow one head of many. `first`: of the queries that
// read these keys, whose caches it fills.
static inline void scores_of_keys(float *row, const float *q, const float *keys, const float *values, int64_t step, int64_t n,
                                  int64_t d, int first) {
  int64_t j = 0;
  for (; first && j < min64(n, KEYS_AHEAD); j++)
    for (int64_t u = 0; u < d; u += 16) __builtin_prefetch(keys + j * step + u, 0, 3);
  for (j = 0; j + KEYS_TOGETHER <= n; j += KEYS_TOGETHER) {
    for (int64_t i = j; first && i < j + KEYS_TOGETHER; i++)
      for (int64_t u = 0; u < d; u += 16) {
        if (i + KEYS_AHEAD < n) __builtin_prefetch(keys + (i + KEYS_AHEAD) * step + u, 0, 3);
        __builtin_prefetch(values + i * step + u, 0, 2);
      }
    scores_together(row + j, q, keys + j * step, step, KEYS_TOGETHER, d);
  }
  for (; j < n; j++) scores_together(row + j, q, keys + j * step, step, 1, d);
}

// out (d) = the sum of weights (n) · values, in registers
static inline void sum_of_values(float *out, const float *weights, const float *values, int64_t step, int64_t n, int64_t d) {
#pragma clang fp reassociate(off)
  int64_t u = 0;
  for (; u + 4 * LANES <= d; u += 4 * LANES) {
    Lanes sums[4] = {{0}};
    for (int64_t j = 0; j < n; j++)
#pragma clang loop unroll(full)
      for (int i = 0; i < 4; i++) sums[i] += weights[j] * *(const Loose *)(values + j * step + u + i * LANES);
    memcpy(out + u, sums, sizeof sums);
  }
  for (int64_t rest = u; rest < d; rest++) out[rest] = 0.0f;
  for (int64_t j = 0; j < n && u < d; j++)
    for (int64_t rest = u; rest < d; rest++) out[rest] += weights[j] * values[j * step + rest];
}
