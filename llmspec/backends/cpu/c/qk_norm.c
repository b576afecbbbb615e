// RMS norm of the queries and of the keys, where queries, keys and values lie side by side (QK-norm): of each head, or of
// all heads as one vector.
#include "rows.h"

typedef struct {
  float *out, *rstd;                    // (rows, all numbers); (rows, q_norms + k_norms): 1 / √(mean(x²) + eps)
  const float *x, *q_weight, *k_weight; // weights (q_width), (k_width)
  const float *gradient;                // of out
  float *partial;                       // (chunks of rows, q_width + k_width): gradients of both weights
  int64_t rows, q_norms, q_width, k_norms, k_width, kept;
  float eps;
} QKNorm;

// How many numbers of a row are normalised; the last `kept` are not
static inline int64_t normed_numbers(const QKNorm *p) { return p->q_norms * p->q_width + p->k_norms * p->k_width; }

static void qk_norm_rows(const void *job, int64_t i, int thread) {
  const QKNorm *p = job;
  int64_t norms = p->q_norms + p->k_norms, normed = normed_numbers(p), all = normed + p->kept;
  (void)thread;
  for (int64_t r = i * ROWS; r < min64((i + 1) * ROWS, p->rows); r++) {
    const float *x = p->x + r * all;
    float *out = p->out + r * all;
    memcpy(out + normed, x + normed, p->kept * sizeof(float));
    for (int64_t h = 0; h < norms; h++) {
      int64_t d = h < p->q_norms ? p->q_width : p->k_width;
      const float *weight = h < p->q_norms ? p->q_weight : p->k_weight;
      float squares = 0.0f;
      for (int64_t j = 0; j < d; j++) squares += x[j] * x[j];
      float rstd = p->rstd[r * norms + h] = 1.0f / __builtin_sqrtf(squares / d + p->eps);
      for (int64_t j = 0; j < d; j++) out[j] = x[j] * rstd * weight[j];
      x += d, out += d;
    }
  }
}

// out (rows, …) = x with its q_norms vectors of q_width and its k_norms of k_width normalised, and `kept` numbers as they
// are; rstd (rows, q_norms + k_norms)
void qk_norm(float *out, float *rstd, const float *x, const float *q_weight, const float *k_weight, int64_t rows,
             int64_t q_norms, int64_t q_width, int64_t k_norms, int64_t k_width, int64_t kept, float eps) {
  QKNorm job = {.out = out, .rstd = rstd, .x = x, .q_weight = q_weight, .k_weight = k_weight, .rows = rows,
                .q_norms = q_norms, .q_width = q_width, .k_norms = k_norms, .k_width = k_width, .kept = kept, .eps = eps};
  parallel_for(qk_norm_rows, &job, ceil_div(rows, ROWS));
}

static void qk_norm_backward_rows(const void *job, int64_t i, int thread) {
  const QKNorm *p = job;
  int64_t norms = p->q_norms + p->k_norms, normed = normed_numbers(p), all = normed + p->kept;
  float *to_weights = p->partial + i * (p->q_width + p->k_width);
  (void)thread;
  memset(to_weights, 0, (p->q_width + p->k_width) * sizeof(float));
  for (int64_t r = i * ROWS; r < min64((i + 1) * ROWS, p->rows); r++) {
    int64_t at = r * all;
    memcpy(p->out + at + normed, p->gradient + at + normed, p->kept * sizeof(float));
    for (int64_t h = 0; h < norms; h++) {
      int64_t of_q = h < p->q_norms, d = of_q ? p->q_width : p->k_width;
      const float *restrict x = p->x + at, *restrict g = p->gradient + at, *restrict weight = of_q ? p->q_weight : p->k_weight;
      float *restrict out = p->out + at, *restrict to_weight = to_weights + (of_q ? 0 : p->q_width);
      float dot = 0.0f, rstd = p->rstd[r * norms + h];
      for (int64_t j = 0; j < d; j++) dot += g[j] * weight[j] * x[j];
      float pull = dot * rstd * rstd * rstd / d;
      for (int64_t j = 0; j < d; j++) {
        out[j] = g[j] * weight[j] * rstd - x[j] * pull;
        to_weight[j] += g[j] * x[j] * rstd;
      }
      at += d;
    }
  }
}

// The gradients of qk_norm for x and for both weights side by side (q_width + k_width), from that of its result
void qk_norm_backward(float *to_x, float *to_weights, const float *gradient, const float *x, const float *q_weight,
                      const float *k_weight, const float *rstd, int64_t rows, int64_t q_norms, int64_t q_width,
                      int64_t k_norms, int64_t k_width, int64_t kept) {
  int64_t chunks = ceil_div(rows, ROWS), weights = q_width + k_width;
  QKNorm job = {.out = to_x, .rstd = (float *)rstd, .x = x, .q_weight = q_weight, .k_weight = k_weight,
                .gradient = gradient, .partial = scratch(SHARED, PARTIAL, chunks * weights), .rows = rows,
                .q_norms = q_norms, .q_width = q_width, .k_norms = k_norms, .k_width = k_width, .kept = kept};
  if (!job.partial) return;
  parallel_for(qk_norm_backward_rows, &job, chunks);
  sum_partials(to_weights, job.partial, chunks, weights);
}
