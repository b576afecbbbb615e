// RMS norm of the queries and of the keys of each head, where queries, keys and values lie side by side (QK-norm).
#include "rows.h"

typedef struct {
  float *out, *rstd;                      // (rows, heads + 2 · kv_heads, d); (rows, heads + kv_heads): 1 / √(mean(x²) + eps)
  const float *x, *q_weight, *k_weight;   // weights (d)
  const float *gradient;                  // of out
  float *partial;                         // (chunks of rows, 2, d): gradients of both weights
  int64_t rows, heads, kv_heads, d;
  float eps;
} QKNorm;

static void qk_norm_rows(const void *job, int64_t i, int thread) {
  const QKNorm *p = job;
  int64_t d = p->d, normed = p->heads + p->kv_heads, all = normed + p->kv_heads;
  (void)thread;
  for (int64_t r = i * ROWS; r < min64((i + 1) * ROWS, p->rows); r++)
    for (int64_t h = 0; h < all; h++) {
      const float *x = p->x + (r * all + h) * d, *weight = h < p->heads ? p->q_weight : p->k_weight;
      float *out = p->out + (r * all + h) * d, squares = 0.0f;
      if (h >= normed) {
        memcpy(out, x, d * sizeof(float));
        continue;
      }
      for (int64_t j = 0; j < d; j++) squares += x[j] * x[j];
      float rstd = p->rstd[r * normed + h] = 1.0f / __builtin_sqrtf(squares / d + p->eps);
      for (int64_t j = 0; j < d; j++) out[j] = x[j] * rstd * weight[j];
    }
}

// out (rows, heads + 2 · kv_heads, d) = x with its queries and keys normalised; rstd (rows, heads + kv_heads)
void qk_norm(float *out, float *rstd, const float *x, const float *q_weight, const float *k_weight, int64_t rows,
             int64_t heads, int64_t kv_heads, int64_t d, float eps) {
  QKNorm job = {.out = out, .rstd = rstd, .x = x, .q_weight = q_weight, .k_weight = k_weight, .rows = rows,
                .heads = heads, .kv_heads = kv_heads, .d = d, .eps = eps};
  parallel_for(qk_norm_rows, &job, ceil_div(rows, ROWS));
}

static void qk_norm_backward_rows(const void *job, int64_t i, int thread) {
  const QKNorm *p = job;
  int64_t d = p->d, normed = p->heads + p->kv_heads, all = normed + p->kv_heads;
  float *to_weights = p->partial + 2 * i * d;
  (void)thread;
  memset(to_weights, 0, 2 * d * sizeof(float));
  for (int64_t r = i * ROWS; r < min64((i + 1) * ROWS, p->rows); r++)
    for (int64_t h = 0; h < all; h++) {
      const float *restrict x = p->x + (r * all + h) * d, *restrict g = p->gradient + (r * all + h) * d;
      const float *restrict weight = h < p->heads ? p->q_weight : p->k_weight;
      float *restrict out = p->out + (r * all + h) * d, *restrict to_weight = to_weights + (h < p->heads ? 0 : d);
      if (h >= normed) {
        memcpy(out, g, d * sizeof(float));
        continue;
      }
      float dot = 0.0f, rstd = p->rstd[r * normed + h];
      for (int64_t j = 0; j < d; j++) dot += g[j] * weight[j] * x[j];
      float pull = dot * rstd * rstd * rstd / d;
      for (int64_t j = 0; j < d; j++) {
        out[j] = g[j] * weight[j] * rstd - x[j] * pull;
        to_weight[j] += g[j] * x[j] * rstd;
      }
    }
}

// The gradients of qk_norm for x and for both weights together (2, d), from that of its result
void qk_norm_backward(float *to_x, float *to_weights, const float *gradient, const float *x, const float *q_weight,
                      const float *k_weight, const float *rstd, int64_t rows, int64_t heads, int64_t kv_heads, int64_t d) {
  int64_t chunks = ceil_div(rows, ROWS);
  QKNorm job = {.out = to_x, .rstd = (float *)rstd, .x = x, .q_weight = q_weight, .k_weight = k_weight,
                .gradient = gradient, .partial = scratch(SHARED, PARTIAL, chunks * 2 * d), .rows = rows, .heads = heads,
                .kv_heads = kv_heads, .d = d};
  if (!job.partial) return;
  parallel_for(qk_norm_backward_rows, &job, chunks);
  sum_partials(to_weights, job.partial, chunks, 2 * d);
}
