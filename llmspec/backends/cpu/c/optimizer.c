// The update of a weight, and the sums that clipping needs.
#include "optimizer.h"
#include "rows.h"

typedef struct {
  double *partial;
  const float *x;
  int64_t n;
} Squares;

static void square_chunk(const void *job, int64_t i, int thread) {
  const Squares *p = job;
  int64_t end = min64((i + 1) * CHUNK, p->n);
  float sums[16] = {0};
  double total = 0.0;
  int64_t j = i * CHUNK;
  (void)thread;
  for (; j + 16 <= end; j += 16)
    for (int u = 0; u < 16; u++) sums[u] += p->x[j + u] * p->x[j + u];
  for (; j < end; j++) sums[0] += p->x[j] * p->x[j];
  for (int u = 0; u < 16; u++) total += sums[u];
  p->partial[i] = total;
}

void square_sum(float *out, const float *x, int64_t n) {
  int64_t chunks = ceil_div(n, CHUNK);
  Squares job = {(double *)scratch(SHARED, PARTIAL, 2 * chunks), x, n};
  double total = 0.0;
  if (!job.partial) return;
  parallel_for(square_chunk, &job, chunks);
  for (int64_t i = 0; i < chunks; i++) total += job.partial[i];
  *out = (float)total;
}

typedef struct {
  float *w, *m, *v; // weight, first and second moment
  const float *g;   // its gradient
  int64_t n;
  float beta1, one_minus_beta1, beta2, one_minus_beta2, eps, l2, lr, kept; // kept = 1 - lr · decay
  float correction1, correction2;                                         // for the moments' bias
  float scale;
} Adam;

static void adam_chunk(const void *job, int64_t i, int thread) {
  const Adam a = *(const Adam *)job;
  float *restrict w = a.w, *restrict m = a.m, *restrict v = a.v;
  const float *restrict gradient = a.g;
  (void)thread;
  for (int64_t j = i * CHUNK; j < min64((i + 1) * CHUNK, a.n); j++) {
    float g = gradient[j] * a.scale + a.l2 * w[j];
    m[j] = a.beta1 * m[j] + a.one_minus_beta1 * g;
    v[j] = a.beta2 * v[j] + a.one_minus_beta2 * g * g;
    w[j] = w[j] * a.kept - a.lr * (m[j] * a.correction1) / (__builtin_sqrtf(v[j] * a.correction2) + a.eps);
  }
}

// Adam's step on w (n) with moments m and v, in place (Kingma & Ba 2015, algorithm 1). scalars = learning rate and the
// two bias corrections; scale (1) multiplies the gradient; l2 is a decay added to the gradient, decay a decoupled one.
void adam(float *w, float *m, float *v, const float *g, const float *scalars, const float *scale, int64_t n, float beta1,
          float one_minus_beta1, float beta2, float one_minus_beta2, float eps, float l2, float decay) {
  Adam job = {.w = w, .m = m, .v = v, .g = g, .n = n, .beta1 = beta1, .one_minus_beta1 = one_minus_beta1, .beta2 = beta2,
              .one_minus_beta2 = one_minus_beta2, .eps = eps, .l2 = l2, .lr = scalars[0],
              .kept = 1.0f - scalars[0] * decay, .correction1 = scalars[1], .correction2 = scalars[2], .scale = *scale};
  parallel_for(adam_chunk, &job, ceil_div(n, CHUNK));
}
