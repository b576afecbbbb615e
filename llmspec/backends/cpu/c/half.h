// Halves: IEEE 754's binary16, as 16 bits. Both ways are exact also where denormals count as 0, and vectorise.
#pragma once
#include <stdint.h>

typedef union {
  float f;
  uint32_t i;
} Word;

// The value of a half
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

// The nearest half, the even one of two; the largest for what is larger
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
