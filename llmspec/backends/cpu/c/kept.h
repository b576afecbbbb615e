// Numbers as a KV cache may hold them: rounded to half precision, or to 8 bits with a scale for 32 of them.
#pragma once
#include <stdint.h>

enum { KEPT_WHOLE, KEPT_HALF, KEPT_BYTES, KEPT_BLOCK = 32 };
typedef union {
  float f;
  uint32_t i;
} Word;

// The number that 16 bits of IEEE 754's binary16 say
static inline float half_value(uint16_t half) {
#if defined(__F16C__) || defined(__aarch64__)
  union { uint16_t i; _Float16 f; } bits = {half};
  return (float)bits.f;
#else
  uint32_t size = (uint32_t)(half & 0x7fff) << 13, exponent = half & 0x7c00;
  Word small = {.i = size + 0x38800000}, base = {.i = 0x38800000}, usual = {.i = size + 0x38000000};
  small.f -= base.f;
  usual.i |= exponent == 0x7c00 ? 0x7f800000 : 0;
  Word found = {.f = exponent ? usual.f : small.f};
  found.i |= (uint32_t)(half & 0x8000) << 16;
  return found.f;
#endif
}

// The nearest of those, the even one of two; the largest for what is larger
static inline uint16_t half_of(float x) {
  Word word = {.f = x};
  uint32_t sign = word.i >> 16 & 0x8000;
  word.i &= 0x7fffffff;
  if (word.i > 0x7f800000) return (uint16_t)(sign | 0x7e00);
  if (word.f > 65504.0f) word.f = 65504.0f;
  Word small = {.f = word.f + 0.5f};
  uint32_t usual = ((word.i + 0xfff + (word.i >> 13 & 1)) >> 13) - 0x1c000;
  return (uint16_t)(sign | (word.i < 0x38800000 ? small.i - 0x3f000000 : usual));
}

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
