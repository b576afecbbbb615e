// Elementwise functions that compilers vectorise.
#pragma once
#include <stdint.h>

// e^x for x <= 0, within 2 ulp: 2^n · p(f) with n = round(x / ln 2); what would underflow is 0. Vectorises, unlike expf.
static inline float exp_negative(float x) {
  float low = x < -87.0f ? -87.0f : x;
  float n = __builtin_rintf(low * 1.44269504f);
  float f = (low - n * 0.693145752f) - n * 1.42860677e-6f;
  float p = 1.9875691500e-4f;
  p = p * f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * f * f + f + 1.0f;
  union { int32_t i; float f; } scale = {((int32_t)n + 127) << 23};
  return x < -87.0f ? 0.0f : p * scale.f;
}

static inline float sigmoid(float x) {
  float e = exp_negative(x < 0.0f ? x : -x);
  return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

// e^(-x²/2), whose integral over √(2π) is the normal distribution.
static inline float bell(float x) { return exp_negative(-0.5f * x * x); }

// Φ(x), the normal distribution up to x, (1 + erf(x/√2)) / 2, within 1.6e-7: ½·erfc(a/√2)·e^(a²/2) for a = |x| is a
// polynomial in t = 1 / (1 + 0.4·a/√2), fitted to 6e-8 of itself on 0 … 13. Vectorises, unlike erff.
static inline float normal_below(float x) {
  float t = 1.0f / (1.0f + 0.2828427247f * (x < 0.0f ? -x : x));
  float p = 2.0225910228e-2f;
  p = p * t - 6.8146815818e-2f;
  p = p * t + 3.7684493081e-2f;
  p = p * t + 4.9103451296e-2f;
  p = p * t + 3.6192780651e-2f;
  p = p * t + 9.8336355106e-2f;
  p = p * t + 1.0050459649e-1f;
  p = p * t + 1.1328612238e-1f;
  p = p * t + 1.1281313632e-1f;
  float tail = p * t * bell(x);
  return x < 0.0f ? tail : 1.0f - tail;
}

// The largest of x (n), at least -3e38. In lanes, since a comparison that respects NaN is not vectorised across a row.
static inline float row_max(const float *x, int64_t n) {
  float lanes[16];
  int64_t j = 0;
  for (int k = 0; k < 16; k++) lanes[k] = -3.0e38f;
  for (; j + 16 <= n; j += 16)
    for (int k = 0; k < 16; k++) lanes[k] = x[j + k] > lanes[k] ? x[j + k] : lanes[k];
  for (; j < n; j++) lanes[0] = x[j] > lanes[0] ? x[j] : lanes[0];
  for (int k = 1; k < 16; k++) lanes[0] = lanes[k] > lanes[0] ? lanes[k] : lanes[0];
  return lanes[0];
}

// tanh(x) within 4 ulp, and its derivative; for small x a polynomial of Cephes's tanhf. Vectorises.
static inline float tanh_of(float x, float *derivative) {
  float size = x < 0.0f ? -x : x, e = exp_negative(-2.0f * size), s = x * x;
  float p = -5.70498872745e-3f;
  p = p * s + 2.06390887954e-2f;
  p = p * s - 5.37397155531e-2f;
  p = p * s + 1.33314422036e-1f;
  p = p * s - 3.33332819422e-1f;
  float small = p * s * x + x, large = (1.0f - e) / (1.0f + e);
  *derivative = 4.0f * e / ((1.0f + e) * (1.0f + e));
  return size < 0.625f ? small : x < 0.0f ? -large : large;
}
