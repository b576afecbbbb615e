// Numbers as a KV cache may hold them: rounded to half precision, or to 8 bits with a scale for 32 of them.
#pragma once
#include "half.h"

enum { KEPT_WHOLE, KEPT_HALF, KEPT_BYTES, KEPT_BLOCK = 32 };

// What a cache holds of a number of heads, (…, head_dim): float32, halves, or bytes with a half for each KEPT_BLOCK
typedef struct {
  const void *values;
  const uint16_t *scales;
  int64_t kind;
} Kept;

// q · the n numbers from `at` on
static inline __attribute__((always_inline)) float kept_dot(Kept x, int64_t at, const float *q, int64_t n) {
  float sum = 0.0f;
  if (x.kind == KEPT_WHOLE) {
    const float *whole = (const float *)x.values + at;
    for (int64_t u = 0; u < n; u++) sum += q[u] * whole[u];
    return sum;
  }
  if (x.kind == KEPT_HALF) {
    const uint16_t *half = (const uint16_t *)x.values + at;
    for (int64_t u = 0; u < n; u++) sum += q[u] * half_value(half[u]);
    return sum;
  }
  const int8_t *byte = (const int8_t *)x.values + at;
  for (int64_t start = 0; start < n; start += KEPT_BLOCK) {
    float part = 0.0f;
    for (int64_t u = start; u < start + KEPT_BLOCK; u++) part += q[u] * (float)byte[u];
    sum += part * half_value(x.scales[(at + start) / KEPT_BLOCK]);
  }
  return sum;
}

// out += weight · the n numbers from `at` on
static inline __attribute__((always_inline)) void kept_add(float *out, Kept x, int64_t at, float weight, int64_t n) {
  if (x.kind == KEPT_WHOLE) {
    const float *whole = (const float *)x.values + at;
    for (int64_t u = 0; u < n; u++) out[u] += weight * whole[u];
    return;
  }
  if (x.kind == KEPT_HALF) {
    const uint16_t *half = (const uint16_t *)x.values + at;
    for (int64_t u = 0; u < n; u++) out[u] += weight * half_value(half[u]);
    return;
  }
  const int8_t *byte = (const int8_t *)x.values + at;
  for (int64_t start = 0; start < n; start += KEPT_BLOCK) {
    float factor = weight * half_value(x.scales[(at + start) / KEPT_BLOCK]);
    for (int64_t u = start; u < start + KEPT_BLOCK; u++) out[u] += factor * (float)byte[u];
  }
}
