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

// The largest of x (n), at least -1e30. In lanes, since a comparison that minds NaN is not vectorised across a row.
static inline float highest(const float *x, int64_t n) {
  float lanes[16];
  int64_t j = 0;
  for (int k = 0; k < 16; k++) lanes[k] = -1e30f;
  for (; j + 16 <= n; j += 16)
    for (int k = 0; k < 16; k++) lanes[k] = x[j + k] > lanes[k] ? x[j + k] : lanes[k];
  for (; j < n; j++) lanes[0] = x[j] > lanes[0] ? x[j] : lanes[0];
  for (int k = 1; k < 16; k++) lanes[0] = lanes[k] > lanes[0] ? lanes[k] : lanes[0];
  return lanes[0];
}

// y (n) = e^(x - max x) over its sum
static inline void softmax_row(float *y, const float *x, int64_t n) {
  float high = highest(x, n), total = 0.0f;
  for (int64_t j = 0; j < n; j++) {
    float e = exp_negative(x[j] - high);
    y[j] = e;
    total += e;
  }
  float scale = 1.0f / total;
  for (int64_t j = 0; j < n; j++) y[j] *= scale;
}

static inline int64_t ones(const uint8_t *m, int64_t n) {
  int64_t sum = 0;
  for (int64_t j = 0; j < n; j++) sum += m[j];
  return sum;
}

// out, scores (b, h, t, s); mask (bm, t, s) with bm = b or 1, 1 where a key is seen, else 0. Masked places get 0.
void softmax_masked(float *out, const float *scores, const uint8_t *mask, int64_t b, int64_t h, int64_t t, int64_t s,
                    int64_t bm) {
  for (int64_t row = 0; row < b * h * t; row++) {
    const float *x = scores + row * s;
    const uint8_t *m = mask + ((bm == 1 ? 0 : row / (h * t)) * t + row % t) * s;
    float *y = out + row * s;
    const uint8_t *first = memchr(m, 1, s);
    int64_t start = first ? first - m : s, seen = ones(m, s), end = start + seen;
    if (end <= s && ones(m + start, seen) == seen) { // a causal row, a document's row: one run of keys, or none
      memset(y, 0, start * sizeof(float));
      memset(y + end, 0, (s - end) * sizeof(float));
      if (seen) softmax_row(y + start, x + start, seen);
    } else { // any other mask: what is masked is far below the rest
      for (int64_t j = 0; j < s; j++) y[j] = m[j] ? x[j] : -1e30f;
      softmax_row(y, y, s);
      for (int64_t j = 0; j < s; j++) y[j] = m[j] ? y[j] : 0.0f;
    }
  }
}

// out = p · (g - sum(g · p)) over rows of s: the gradient of a softmax whose result was p
void softmax_backward(float *out, const float *gradient, const float *p, int64_t rows, int64_t s) {
  for (int64_t row = 0; row < rows; row++) {
    const float *g = gradient + row * s, *y = p + row * s;
    float dot = 0.0f;
    static const float zeros[16];
    int64_t end = s; // what is masked behind the last key stays 0
    while (end >= 16 && !memcmp(y + end - 16, zeros, sizeof zeros)) end -= 16;
    memset(out + row * s + end, 0, (s - end) * sizeof(float));
    for (int64_t j = 0; j < end; j++) dot += g[j] * y[j];
    for (int64_t j = 0; j < end; j++) out[row * s + j] = y[j] * (g[j] - dot);
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
    float high = highest(x, v), sum = 0.0f, mean = 0.0f;
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

// out (n, d) = x · r · weight with r (n) = 1 / √(mean(x²) + eps); eps counts in 10⁻¹²
void rms_norm(float *out, float *r, const float *x, const float *weight, int64_t n, int64_t d, int64_t eps) {
  for (int64_t i = 0; i < n; i++) {
    const float *row = x + i * d;
    float squares = 0.0f;
    for (int64_t j = 0; j < d; j++) squares += row[j] * row[j];
    r[i] = 1.0f / __builtin_sqrtf(squares / d + eps * 1e-12f);
    for (int64_t j = 0; j < d; j++) out[i * d + j] = row[j] * r[i] * weight[j];
  }
}

// The gradients of rms_norm for x and weight, from that of its result
void rms_norm_backward(float *to_x, float *to_weight, const float *gradient, const float *x, const float *weight,
                       const float *r, int64_t n, int64_t d) {
  memset(to_weight, 0, d * sizeof(float));
  for (int64_t i = 0; i < n; i++) {
    const float *row = x + i * d, *g = gradient + i * d;
    float *out = to_x + i * d, dot = 0.0f;
    for (int64_t j = 0; j < d; j++) dot += g[j] * weight[j] * row[j];
    float pull = dot * r[i] * r[i] * r[i] / d;
    for (int64_t j = 0; j < d; j++) {
      out[j] = g[j] * weight[j] * r[i] - row[j] * pull;
      to_weight[j] += g[j] * row[j] * r[i];
    }
  }
}

// Calls the kernels of a table (n, 64): a function's address, the number of its arguments (62 at most), the arguments as
// 64-bit words. A callee reads as many as it has; words beyond them cost a few nanoseconds.
#define A8(w) (w)[0], (w)[1], (w)[2], (w)[3], (w)[4], (w)[5], (w)[6], (w)[7]
#define W8 uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t
typedef void (*Short)(W8);
typedef void (*Long)(W8, W8, W8, W8, W8, W8, W8, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
void replay(const uint64_t *table, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    const uint64_t *f = table + i * 64, *w = f + 2;
    if (f[1] <= 8)
      ((Short)f[0])(A8(w));
    else
      ((Long)f[0])(A8(w), A8(w + 8), A8(w + 16), A8(w + 24), A8(w + 32), A8(w + 40), A8(w + 48), w[56], w[57], w[58],
                   w[59], w[60], w[61]);
  }
}
