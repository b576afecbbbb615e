// The few hot operations that tinygrad's generator does slowly on a CPU. Compiled by llmspec/kernels/native.py with the
// same clang as the rest of the graph and called from it by address. Float32, row-major; sizes in elements.
#include <stdint.h>
#include <string.h>

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

// out (n, d) = table (v, d) at ids (n)
void gather_rows(float *out, const float *table, const int32_t *ids, int64_t n, int64_t d) {
  for (int64_t i = 0; i < n; i++) memcpy(out + i * d, table + (int64_t)ids[i] * d, d * sizeof(float));
}

// out (v, d) = the sum over i of gradient (i, d) at row ids (i): the gradient of gather_rows, in the order of i
void scatter_rows(float *out, const float *gradient, const int32_t *ids, int64_t n, int64_t d, int64_t v) {
  memset(out, 0, v * d * sizeof(float));
  for (int64_t i = 0; i < n; i++) {
    float *row = out + (int64_t)ids[i] * d;
    const float *g = gradient + i * d;
    for (int64_t j = 0; j < d; j++) row[j] += g[j];
  }
}

// out, scores (b, h, t, s); mask (bm, t, s) with bm = b or 1, nonzero where a key is seen. Masked places get 0.
void softmax_masked(float *out, const float *scores, const uint8_t *mask, int64_t b, int64_t h, int64_t t, int64_t s,
                    int64_t bm) {
  for (int64_t row = 0; row < b * h * t; row++) {
    const float *x = scores + row * s;
    const uint8_t *m = mask + ((bm == 1 ? 0 : row / (h * t)) * t + row % t) * s;
    float *y = out + row * s;
    float high = -1e30f, total = 0.0f;
    for (int64_t j = 0; j < s; j++) {
      float seen = m[j] ? x[j] : -1e30f;
      high = seen > high ? seen : high;
    }
    for (int64_t j = 0; j < s; j++) {
      float e = exp_negative(m[j] ? x[j] - high : -1e30f);
      y[j] = m[j] ? e : 0.0f;
      total += y[j];
    }
    float scale = total > 0.0f ? 1.0f / total : 0.0f;
    for (int64_t j = 0; j < s; j++) y[j] *= scale;
  }
}

// out = p · (g - sum(g · p)) over rows of s: the gradient of a softmax whose result was p
void softmax_backward(float *out, const float *gradient, const float *p, int64_t rows, int64_t s) {
  for (int64_t row = 0; row < rows; row++) {
    const float *g = gradient + row * s, *y = p + row * s;
    float dot = 0.0f;
    for (int64_t j = 0; j < s; j++) dot += g[j] * y[j];
    for (int64_t j = 0; j < s; j++) out[row * s + j] = y[j] * (g[j] - dot);
  }
}

static inline float sigmoid(float x) {
  float e = exp_negative(x < 0.0f ? x : -x);
  return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

// out = silu(gate) · up
void silu_gated(float *out, const float *gate, const float *up, int64_t n) {
  for (int64_t i = 0; i < n; i++) out[i] = gate[i] * sigmoid(gate[i]) * up[i];
}

// The gradients of silu_gated for gate and up, from that of its result
void silu_gated_backward(float *to_gate, float *to_up, const float *gradient, const float *gate, const float *up,
                         int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    float s = sigmoid(gate[i]), g = gradient[i];
    to_up[i] = g * gate[i] * s;
    to_gate[i] = g * up[i] * s * (1.0f + gate[i] * (1.0f - s));
  }
}

// losses (n) = log Σ e^x - (1 - smoothing)·x[target] - smoothing·mean(x) over logits (n, v); totals (n) = log Σ e^x
void cross_entropy(float *losses, float *totals, const float *logits, const int32_t *targets, int64_t n, int64_t v,
                   int64_t smoothing_ppm) {
  float smoothing = smoothing_ppm * 1e-6f;
  for (int64_t i = 0; i < n; i++) {
    const float *x = logits + i * v;
    float high = x[0], sum = 0.0f, mean = 0.0f;
    for (int64_t j = 0; j < v; j++) high = x[j] > high ? x[j] : high;
    for (int64_t j = 0; j < v; j++) {
      sum += exp_negative(x[j] - high);
      mean += x[j] - high;
    }
    float log_sum = __builtin_logf(sum);
    totals[i] = high + log_sum;
    losses[i] = log_sum - (1.0f - smoothing) * (x[targets[i]] - high) - smoothing * (mean / v);
  }
}

// The gradient of the losses for the logits: gradient · (softmax - (1 - smoothing)·[target] - smoothing / v)
void cross_entropy_backward(float *out, const float *gradient, const float *logits, const float *totals,
                            const int32_t *targets, int64_t n, int64_t v, int64_t smoothing_ppm) {
  float smoothing = smoothing_ppm * 1e-6f;
  for (int64_t i = 0; i < n; i++) {
    const float *x = logits + i * v;
    float *y = out + i * v, g = gradient[i], even = smoothing / v;
    for (int64_t j = 0; j < v; j++) {
      float below = x[j] - totals[i];
      y[j] = g * (exp_negative(below < 0.0f ? below : 0.0f) - even);
    }
    y[targets[i]] -= g * (1.0f - smoothing);
  }
}
