// Linear layers and the loss over the vocabulary.

// Up to three layers of one input, their results side by side: y (n, o1 + o2 + o3) = x (n, i) · wᵀ + bias, w (o, i).
// `biased` is 0 where no bias is to be added; layers that are not there have o = 0.
void linear(float *y, const float *x, const float *w1, const float *w2, const float *w3, const float *b1, const float *b2,
            const float *b3, int64_t n, int64_t i, int64_t o1, int64_t o2, int64_t o3, int64_t biased) {
  const float *w[] = {w1, w2, w3}, *b[] = {b1, b2, b3};
  int64_t o[] = {o1, o2, o3}, wide = o1 + o2 + o3;
  Product each[3];
  int count = 0;
  for (int j = 0; j < 3; y += o[j++])
    if (o[j])
      each[count++] = (Product){y, wide, {x, i, 1}, {w[j], 1, i}, n, o[j], i, 0, biased ? b[j] : 0, 0, 0, 0};
  if (by_weights(each, count)) return;
  for (int j = 0; j < count; j++)
    multiply(each[j].c, wide, each[j].a, each[j].b, n, each[j].n, i, 0, each[j].bias);
}

// The gradients of linear for x, each w, and the biases side by side
void linear_backward(float *to_x, float *to_w1, float *to_w2, float *to_w3, float *to_b, const float *gradient,
                     const float *x, const float *w1, const float *w2, const float *w3, int64_t n, int64_t i, int64_t o1,
                     int64_t o2, int64_t o3, int64_t biased) {
  const float *w[] = {w1, w2, w3}, *g = gradient;
  float *to_w[] = {to_w1, to_w2, to_w3};
  int64_t o[] = {o1, o2, o3}, wide = o1 + o2 + o3;
  for (int j = 0; j < 3; g += o[j++]) {
    if (!o[j]) continue;
    multiply(to_x, i, (Matrix){g, wide, 1}, (Matrix){w[j], i, 1}, n, i, o[j], j > 0, 0);
    multiply(to_w[j], i, (Matrix){g, 1, wide}, (Matrix){x, i, 1}, o[j], i, n, 0, 0);
  }
  if (biased) column_sums(to_b, gradient, n, wide);
}

JOB(Loss, float *losses, *logits; const int32_t *targets; int64_t n, v; float smoothing);

static void lose_one(const void *job, int64_t i, int thread) {
  const Loss *p = job;
  float *x = p->logits + i * p->v, high = highest(x, p->v), sum = 0.0f, mean = 0.0f, at = x[p->targets[i]];
  (void)thread;
  for (int64_t j = 0; j < p->v; j++) {
    float below = x[j] - high, e = exp_negative(below);
    mean += below;
    sum += e;
    x[j] = e;
  }
  p->losses[i] = __builtin_logf(sum) - (1.0f - p->smoothing) * (at - high) - p->smoothing * (mean / p->v);
  float scale = 1.0f / sum, even = p->smoothing / p->v;
  for (int64_t j = 0; j < p->v; j++) x[j] = x[j] * scale - even;
  x[p->targets[i]] -= 1.0f - p->smoothing;
}

// losses (n) = log Σ e^x - (1 - smoothing)·x[target] - smoothing·mean(x) for x (n, v) = hidden (n, d) · wᵀ, w (v, d).
// slopes (n, v) receives the losses' own gradients for x, in the place of x: the logits are stored once.
void linear_cross_entropy(float *losses, float *slopes, const float *hidden, const float *w, const int32_t *targets,
                          int64_t n, int64_t d, int64_t v, float smoothing) {
  multiply(slopes, v, (Matrix){hidden, d, 1}, (Matrix){w, 1, d}, n, v, d, 0, 0);
  for (int64_t i = 0; i < n; i++)
    if (!inside(targets[i], v)) return;
  Loss job = {losses, slopes, targets, n, v, smoothing};
  parallel(lose_one, &job, n);
}

JOB(Scaling, float *out; const float *x, *factor; int64_t n, d);

static void scale_some(const void *job, int64_t i, int thread) {
  const Scaling *p = job;
  (void)thread;
  for (int64_t r = i * ROWS; r < least((i + 1) * ROWS, p->n); r++)
    for (int64_t j = 0; j < p->d; j++) p->out[r * p->d + j] = p->x[r * p->d + j] * p->factor[r];
}

// The gradients of linear_cross_entropy for hidden and w, from that (n) of its losses
void linear_cross_entropy_backward(float *to_hidden, float *to_w, const float *gradient, const float *slopes,
                                   const float *hidden, const float *w, int64_t n, int64_t d, int64_t v) {
  Scaling rows = {to_hidden, to_hidden, gradient, n, d}, scaled = {scratch(SHARED, PARTIAL, n * d), hidden, gradient, n, d};
  if (!scaled.out) return;
  multiply(to_hidden, d, (Matrix){slopes, v, 1}, (Matrix){w, d, 1}, n, d, v, 0, 0);
  parallel(scale_some, &rows, parts(n, ROWS));
  parallel(scale_some, &scaled, parts(n, ROWS));
  multiply(to_w, d, (Matrix){slopes, 1, v}, (Matrix){scaled.out, d, 1}, v, d, n, 0, 0);
}
