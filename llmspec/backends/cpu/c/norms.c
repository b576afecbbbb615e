// RMS norm and layer norm, with their gradients.
#include "rows.h"

typedef struct {
  float *out, *stats;
  const float *x, *weight, *bias, *gradient;
  float *partial;
  int64_t n, d;
  float eps;
} Norm;

static void rms_norm_chunk(const void *job, int64_t i, int thread) {
  const Norm *p = job;
  int64_t d = p->d;
  (void)thread;
  for (int64_t r = i * ROWS; r < min64((i + 1) * ROWS, p->n); r++) {
    const float *x = p->x + r * d;
    float squares = 0.0f;
    for (int64_t j = 0; j < d; j++) squares += x[j] * x[j];
    float scale = p->stats[r] = 1.0f / __builtin_sqrtf(squares / d + p->eps);
    for (int64_t j = 0; j < d; j++) p->out[r * d + j] = x[j] * scale * p->weight[j];
  }
}

// out (n, d) = x · r · weight with r (n) = 1 / √(mean(x²) + eps)
void rms_norm(float *out, float *r, const float *x, const float *weight, int64_t n, int64_t d, float eps) {
  Norm job = {out, r, x, weight, 0, 0, 0, n, d, eps};
  parallel_for(rms_norm_chunk, &job, ceil_div(n, ROWS));
}

static void rms_norm_backward_chunk(const void *job, int64_t i, int thread) {
  const Norm *p = job;
  int64_t d = p->d;
  float *restrict to_weight = p->partial + i * d;
  const float *restrict weight = p->weight;
  (void)thread;
  memset(to_weight, 0, d * sizeof(float));
  for (int64_t row = i * ROWS; row < min64((i + 1) * ROWS, p->n); row++) {
    const float *restrict x = p->x + row * d, *restrict g = p->gradient + row * d;
    float *restrict out = p->out + row * d, dot = 0.0f, r = p->stats[row];
    for (int64_t j = 0; j < d; j++) dot += g[j] * weight[j] * x[j];
    float pull = dot * r * r * r / d;
    for (int64_t j = 0; j < d; j++) {
      out[j] = g[j] * weight[j] * r - x[j] * pull;
      to_weight[j] += g[j] * x[j] * r;
    }
  }
}

// The gradients of rms_norm for x and weight, from that of its result
void rms_norm_backward(float *to_x, float *to_weight, const float *gradient, const float *x, const float *weight,
                       const float *r, int64_t n, int64_t d) {
  int64_t chunks = ceil_div(n, ROWS);
  Norm job = {to_x, (float *)r, x, weight, 0, gradient, scratch(SHARED, PARTIAL, chunks * d), n, d, 0};
  if (!job.partial) return;
  parallel_for(rms_norm_backward_chunk, &job, chunks);
  sum_partials(to_weight, job.partial, chunks, d);
}

static void layer_norm_chunk(const void *job, int64_t i, int thread) {
  const Norm *p = job;
  int64_t d = p->d;
  (void)thread;
  for (int64_t row = i * ROWS; row < min64((i + 1) * ROWS, p->n); row++) {
    const float *x = p->x + row * d;
    float *out = p->out + row * d, mean = 0.0f, squares = 0.0f;
    for (int64_t j = 0; j < d; j++) mean += x[j];
    mean /= d;
    for (int64_t j = 0; j < d; j++) squares += (x[j] - mean) * (x[j] - mean);
    float r = 1.0f / __builtin_sqrtf(squares / d + p->eps);
    p->stats[2 * row] = mean;
    p->stats[2 * row + 1] = r;
    if (p->bias)
      for (int64_t j = 0; j < d; j++) out[j] = (x[j] - mean) * r * p->weight[j] + p->bias[j];
    else
      for (int64_t j = 0; j < d; j++) out[j] = (x[j] - mean) * r * p->weight[j];
  }
}

// out (n, d) = (x - mean) · r · weight + bias; stats (n, 2) = mean, r. `biased` is 0 where no bias is to be added.
void layer_norm(float *out, float *stats, const float *x, const float *weight, const float *bias, int64_t n, int64_t d,
                int64_t biased, float eps) {
  Norm job = {out, stats, x, weight, biased ? bias : 0, 0, 0, n, d, eps};
  parallel_for(layer_norm_chunk, &job, ceil_div(n, ROWS));
}

static void layer_norm_backward_chunk(const void *job, int64_t i, int thread) {
  const Norm *p = job;
  int64_t d = p->d;
  float *restrict to_weight = p->partial + 2 * i * d, *restrict to_bias = to_weight + d;
  const float *restrict weight = p->weight;
  (void)thread;
  memset(to_weight, 0, 2 * d * sizeof(float));
  for (int64_t row = i * ROWS; row < min64((i + 1) * ROWS, p->n); row++) {
    const float *restrict x = p->x + row * d, *restrict g = p->gradient + row * d;
    float *restrict out = p->out + row * d, mean = p->stats[2 * row], r = p->stats[2 * row + 1], sum = 0.0f, dot = 0.0f;
    for (int64_t j = 0; j < d; j++) {
      float wg = g[j] * weight[j];
      sum += wg;
      dot += wg * (x[j] - mean);
    }
    sum /= d;
    dot *= r * r / d;
    for (int64_t j = 0; j < d; j++) {
      out[j] = (g[j] * weight[j] - sum - (x[j] - mean) * dot) * r;
      to_weight[j] += g[j] * (x[j] - mean) * r;
      to_bias[j] += g[j];
    }
  }
}

// The gradients of layer_norm for x and for weight and bias together (2, d), from that of its result
void layer_norm_backward(float *to_x, float *to_both, const float *gradient, const float *x, const float *weight,
                         const float *stats, int64_t n, int64_t d) {
  int64_t chunks = ceil_div(n, ROWS);
  Norm job = {to_x, (float *)stats, x, weight, 0, gradient, scratch(SHARED, PARTIAL, chunks * 2 * d), n, d, 0};
  if (!job.partial) return;
  parallel_for(layer_norm_backward_chunk, &job, chunks);
  sum_partials(to_both, job.partial, chunks, 2 * d);
}
