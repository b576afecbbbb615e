// The loss over the vocabulary, together with the product that makes its logits.
#include "gemm.h"
#include "loss.h"
#include "numeric.h"
#include "rows.h"

typedef struct {
  float *losses, *logits;
  const int32_t *targets;
  int64_t n, v;
  float smoothing, softcap, z_loss;
} Loss;

// Adds z_loss · z² to a loss, z the logarithm of the sum of all e^x; what its gradient makes of the softmax: a factor.
static float add_z_loss(const Loss *p, int64_t i, float z) {
  p->losses[i] += p->z_loss * z * z;
  return 1.0f + 2.0f * p->z_loss * z;
}

static void cross_entropy_row(const void *job, int64_t i, int thread) {
  const Loss *p = job;
  float *x = p->logits + i * p->v, high = row_max(x, p->v), sum = 0.0f, mean = 0.0f, at = x[p->targets[i]];
  (void)thread;
  for (int64_t j = 0; j < p->v; j++) {
    float below = x[j] - high, e = exp_negative(below);
    mean += below;
    sum += e;
    x[j] = e;
  }
  p->losses[i] = __builtin_logf(sum) - (1.0f - p->smoothing) * (at - high) - p->smoothing * (mean / p->v);
  float scale = 1.0f / sum, even = p->smoothing / p->v;
  if (p->z_loss != 0.0f) scale *= add_z_loss(p, i, __builtin_logf(sum) + high);
  for (int64_t j = 0; j < p->v; j++) x[j] = x[j] * scale - even;
  x[p->targets[i]] -= 1.0f - p->smoothing;
}

// The same of y = softcap · tanh(x / softcap) in the place of x, whose slope is 1 - (y / softcap)². What is stored is y
// and then the gradient for x, so that each exponential is computed twice.
static void capped_cross_entropy_row(const void *job, int64_t i, int thread) {
  const Loss *p = job;
  float *x = p->logits + i * p->v, sum = 0.0f, mean = 0.0f, inverse = 1.0f / p->softcap, unused;
  (void)thread;
  for (int64_t j = 0; j < p->v; j++) x[j] = p->softcap * tanh_of(x[j] * inverse, &unused);
  float high = row_max(x, p->v), at = x[p->targets[i]], share = at * inverse;
  for (int64_t j = 0; j < p->v; j++) {
    mean += x[j] - high;
    sum += exp_negative(x[j] - high);
  }
  p->losses[i] = __builtin_logf(sum) - (1.0f - p->smoothing) * (at - high) - p->smoothing * (mean / p->v);
  float scale = 1.0f / sum, even = p->smoothing / p->v;
  if (p->z_loss != 0.0f) scale *= add_z_loss(p, i, __builtin_logf(sum) + high);
  for (int64_t j = 0; j < p->v; j++) {
    float y = x[j] * inverse;
    x[j] = (exp_negative(x[j] - high) * scale - even) * (1.0f - y * y);
  }
  x[p->targets[i]] -= (1.0f - p->smoothing) * (1.0f - share * share);
}

// losses (n) = log Σ e^x - (1 - smoothing)·x[target] - smoothing·mean(x) + z_loss·(log Σ e^x)² for x (n, v) =
// hidden (n, d) · wᵀ, w (v, d).
// slopes (n, v) receives the losses' own gradients for x, in the place of x: the logits are stored once.
// A softcap above 0 bounds x first: softcap · tanh(x / softcap).
void linear_cross_entropy(float *losses, float *slopes, const float *hidden, const float *w, const int32_t *targets,
                          int64_t n, int64_t d, int64_t v, float smoothing, float softcap, float z_loss) {
  gemm(slopes, v, (Matrix){hidden, d, 1}, (Matrix){w, 1, d}, n, v, d, 0, 0);
  losses_of_logits(losses, slopes, targets, n, v, smoothing, softcap, z_loss);
}

void losses_of_logits(float *losses, float *slopes, const int32_t *targets, int64_t n, int64_t v, float smoothing,
                      float softcap, float z_loss) {
  for (int64_t i = 0; i < n; i++)
    if (!check_index(targets[i], v)) return;
  Loss job = {losses, slopes, targets, n, v, smoothing, softcap, z_loss};
  parallel_for(softcap > 0.0f ? capped_cross_entropy_row : cross_entropy_row, &job, n);
}

typedef struct {
  float *out;
  const float *x, *factor;
  int64_t n, d;
} Scaling;

static void scale_chunk(const void *job, int64_t i, int thread) {
  const Scaling *p = job;
  (void)thread;
  for (int64_t r = i * ROWS; r < min64((i + 1) * ROWS, p->n); r++)
    for (int64_t j = 0; j < p->d; j++) p->out[r * p->d + j] = p->x[r * p->d + j] * p->factor[r];
}

void scale_rows(float *out, const float *x, const float *factor, int64_t n, int64_t d) {
  Scaling job = {out, x, factor, n, d};
  parallel_for(scale_chunk, &job, ceil_div(n, ROWS));
}

// The gradients of linear_cross_entropy for hidden and w, from that (n) of its losses
void linear_cross_entropy_backward(float *to_hidden, float *to_w, const float *gradient, const float *slopes,
                                   const float *hidden, const float *w, int64_t n, int64_t d, int64_t v) {
  float *scaled = scratch(SHARED, PARTIAL, n * d);
  if (!scaled) return;
  gemm(to_hidden, d, (Matrix){slopes, v, 1}, (Matrix){w, d, 1}, n, d, v, 0, 0);
  scale_rows(to_hidden, to_hidden, gradient, n, d);
  scale_rows(scaled, hidden, gradient, n, d);
  gemm(to_w, d, (Matrix){slopes, 1, v}, (Matrix){scaled, d, 1}, v, d, n, 0, 0);
}
