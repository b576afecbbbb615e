// Operations that go over rows: embedding, norms, activations, rotation, sums. Sizes in elements.

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

// The largest of x (n), at least -3e38. In lanes, since a comparison that minds NaN is not vectorised across a row.
static inline float highest(const float *x, int64_t n) {
  float lanes[16];
  int64_t j = 0;
  for (int k = 0; k < 16; k++) lanes[k] = -3.0e38f;
  for (; j + 16 <= n; j += 16)
    for (int k = 0; k < 16; k++) lanes[k] = x[j + k] > lanes[k] ? x[j + k] : lanes[k];
  for (; j < n; j++) lanes[0] = x[j] > lanes[0] ? x[j] : lanes[0];
  for (int k = 1; k < 16; k++) lanes[0] = lanes[k] > lanes[0] ? lanes[k] : lanes[0];
  return lanes[0];
}

// Rows or elements of one iteration: fixed numbers, so that sums over iterations have the same bits everywhere.
enum { ROWS = 32, CHUNK = 8192 };

#define JOB(name, ...) typedef struct { __VA_ARGS__; } name

// -- embedding --------------------------------------------------------------------------------------------------------
JOB(Gather, float *out; const float *in; const int32_t *ids; int64_t n, d, v);

static void gather_some(const void *job, int64_t i, int thread) {
  const Gather *p = job;
  (void)thread;
  for (int64_t r = i * ROWS; r < least((i + 1) * ROWS, p->n); r++)
    if (inside(p->ids[r], p->v)) memcpy(p->out + r * p->d, p->in + (int64_t)p->ids[r] * p->d, p->d * sizeof(float));
}

// out (n, d) = table (v, d) at ids (n)
void gather_rows(float *out, const float *table, const int32_t *ids, int64_t n, int64_t d, int64_t v) {
  Gather job = {out, table, ids, n, d, v};
  parallel(gather_some, &job, parts(n, ROWS));
}

enum { STRIPE = 64 };
static void scatter_stripe(const void *job, int64_t i, int thread) {
  const Gather *p = job;
  int64_t start = i * STRIPE, width = least(STRIPE, p->d - start);
  (void)thread;
  for (int64_t r = 0; r < p->v; r++) memset(p->out + r * p->d + start, 0, width * sizeof(float));
  for (int64_t r = 0; r < p->n; r++) {
    if (!inside(p->ids[r], p->v)) return;
    float *row = p->out + (int64_t)p->ids[r] * p->d + start;
    const float *g = p->in + r * p->d + start;
    for (int64_t j = 0; j < width; j++) row[j] += g[j];
  }
}

// out (v, d) = the sum over i of gradient (i, d) at row ids (i): the gradient of gather_rows, in the order of i
void scatter_rows(float *out, const float *gradient, const int32_t *ids, int64_t n, int64_t d, int64_t v) {
  Gather job = {out, gradient, ids, n, d, v};
  parallel(scatter_stripe, &job, parts(d, STRIPE));
}

// -- sums over rows, in two stages: chunks of rows, then the chunks in their order ---------------------------------------
JOB(Columns, const float *in; float *out, *held; int64_t n, d, chunks);

static void add_up_stripe(const void *job, int64_t i, int thread) {
  const Columns *p = job;
  int64_t end = least((i + 1) * STRIPE, p->d);
  (void)thread;
  for (int64_t j = i * STRIPE; j < end; j++) p->out[j] = 0.0f;
  for (int64_t c = 0; c < p->chunks; c++)
    for (int64_t j = i * STRIPE; j < end; j++) p->out[j] += p->held[c * p->d + j];
}

static void column_chunk(const void *job, int64_t i, int thread) {
  const Columns *p = job;
  float *sum = p->held + i * p->d;
  (void)thread;
  memset(sum, 0, p->d * sizeof(float));
  for (int64_t r = i * ROWS; r < least((i + 1) * ROWS, p->n); r++)
    for (int64_t j = 0; j < p->d; j++) sum[j] += p->in[r * p->d + j];
}

// out (d) = the sum of the rows of x (n, d): the gradient of a bias
void column_sums(float *out, const float *x, int64_t n, int64_t d) {
  int64_t chunks = parts(n, ROWS);
  Columns job = {x, out, scratch(SHARED, PARTIAL, chunks * d), n, d, chunks};
  if (!job.held) return;
  parallel(column_chunk, &job, chunks);
  parallel(add_up_stripe, &job, parts(d, STRIPE));
}

// -- norms ------------------------------------------------------------------------------------------------------------
JOB(Norm, float *out, *stats; const float *x, *weight, *bias, *gradient; float *held; int64_t n, d; float eps);

static void rms_some(const void *job, int64_t i, int thread) {
  const Norm *p = job;
  int64_t d = p->d;
  (void)thread;
  for (int64_t r = i * ROWS; r < least((i + 1) * ROWS, p->n); r++) {
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
  parallel(rms_some, &job, parts(n, ROWS));
}

static void rms_back_some(const void *job, int64_t i, int thread) {
  const Norm *p = job;
  int64_t d = p->d;
  float *restrict to_weight = p->held + i * d;
  const float *restrict weight = p->weight;
  (void)thread;
  memset(to_weight, 0, d * sizeof(float));
  for (int64_t row = i * ROWS; row < least((i + 1) * ROWS, p->n); row++) {
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
  int64_t chunks = parts(n, ROWS);
  Norm job = {to_x, (float *)r, x, weight, 0, gradient, scratch(SHARED, PARTIAL, chunks * d), n, d, 0};
  if (!job.held) return;
  parallel(rms_back_some, &job, chunks);
  Columns sums = {0, to_weight, job.held, n, d, chunks};
  parallel(add_up_stripe, &sums, parts(d, STRIPE));
}

static void layer_some(const void *job, int64_t i, int thread) {
  const Norm *p = job;
  int64_t d = p->d;
  (void)thread;
  for (int64_t row = i * ROWS; row < least((i + 1) * ROWS, p->n); row++) {
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
  parallel(layer_some, &job, parts(n, ROWS));
}

static void layer_back_some(const void *job, int64_t i, int thread) {
  const Norm *p = job;
  int64_t d = p->d;
  float *restrict to_weight = p->held + 2 * i * d, *restrict to_bias = to_weight + d;
  const float *restrict weight = p->weight;
  (void)thread;
  memset(to_weight, 0, 2 * d * sizeof(float));
  for (int64_t row = i * ROWS; row < least((i + 1) * ROWS, p->n); row++) {
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
  int64_t chunks = parts(n, ROWS);
  Norm job = {to_x, (float *)stats, x, weight, 0, gradient, scratch(SHARED, PARTIAL, chunks * 2 * d), n, d, 0};
  if (!job.held) return;
  parallel(layer_back_some, &job, chunks);
  Columns sums = {0, to_both, job.held, n, 2 * d, chunks};
  parallel(add_up_stripe, &sums, parts(2 * d, STRIPE));
}

// -- sums of two -------------------------------------------------------------------------------------------------------
JOB(Sum, float *out; const float *x, *y; int64_t n);

static void add_some(const void *job, int64_t i, int thread) {
  const Sum *p = job;
  (void)thread;
  for (int64_t j = i * CHUNK; j < least((i + 1) * CHUNK, p->n); j++) p->out[j] = p->x[j] + p->y[j];
}

// out (n) = x + y
void add(float *out, const float *x, const float *y, int64_t n) {
  Sum job = {out, x, y, n};
  parallel(add_some, &job, parts(n, CHUNK));
}

// -- activations --------------------------------------------------------------------------------------------------------
// GELU in its tanh form is x · sigmoid(2u) with u = √(2/π)·(x + 0.044715·x³), since (1 + tanh u) / 2 = sigmoid(2u).
enum { SILU, GELU };
JOB(Pointwise, float *out; const float *x, *gradient; int64_t n, d, kind);

static inline float slope_of(float x) { return 1.5957691216f * (1.0f + 3.0f * 0.044715f * x * x); }
static inline float gate_of(float x, int kind) {
  return sigmoid(kind == SILU ? x : 1.5957691216f * (x + 0.044715f * x * x * x));
}
static inline float derivative(float x, float s, int kind) {
  return s * (1.0f + x * (1.0f - s) * (kind == SILU ? 1.0f : slope_of(x)));
}

static void activate_some(const void *job, int64_t i, int thread) {
  const Pointwise *p = job;
  int64_t end = least((i + 1) * CHUNK, p->n);
  (void)thread;
#define EACH(form, value)                                                                                              \
  if (p->kind == (form))                                                                                               \
    for (int64_t j = i * CHUNK; j < end; j++) {                                                                        \
      float x = p->x[j], s = gate_of(x, form);                                                                         \
      p->out[j] = value;                                                                                               \
    }
  if (p->gradient) {
    EACH(SILU, p->gradient[j] * derivative(x, s, SILU))
    EACH(GELU, p->gradient[j] * derivative(x, s, GELU))
  } else {
    EACH(SILU, x * s)
    EACH(GELU, x * s)
  }
}

// out (n) = x · gate(x)
void activation(float *out, const float *x, int64_t n, int64_t kind) {
  Pointwise job = {out, x, 0, n, 0, kind};
  parallel(activate_some, &job, parts(n, CHUNK));
}

void activation_backward(float *to_x, const float *gradient, const float *x, int64_t n, int64_t kind) {
  Pointwise job = {to_x, x, gradient, n, 0, kind};
  parallel(activate_some, &job, parts(n, CHUNK));
}

static void gate_some(const void *job, int64_t i, int thread) {
  const Pointwise *p = job;
  int64_t d = p->d;
  (void)thread;
  for (int64_t r = i * ROWS; r < least((i + 1) * ROWS, p->n); r++) {
    const float *gate = p->x + 2 * r * d, *up = gate + d, *g = p->gradient + r * d;
    float *to_gate = p->out + 2 * r * d, *to_up = to_gate + d, *out = p->out + r * d;
#define EACH_GATE(form)                                                                                                \
  if (p->kind == (form) && p->gradient)                                                                                \
    for (int64_t j = 0; j < d; j++) {                                                                                  \
      float x = gate[j], s = gate_of(x, form);                                                                         \
      to_up[j] = g[j] * x * s;                                                                                         \
      to_gate[j] = g[j] * up[j] * derivative(x, s, form);                                                              \
    }                                                                                                                  \
  if (p->kind == (form) && !p->gradient)                                                                               \
    for (int64_t j = 0; j < d; j++) out[j] = gate[j] * gate_of(gate[j], form) * up[j];
    EACH_GATE(SILU)
    EACH_GATE(GELU)
  }
}

// out (n, d) = x · gate(x) · up for x and up side by side (n, 2, d)
void gated(float *out, const float *both, int64_t n, int64_t d, int64_t kind) {
  Pointwise job = {out, both, 0, n, d, kind};
  parallel(gate_some, &job, parts(n, ROWS));
}

void gated_backward(float *to_both, const float *gradient, const float *both, int64_t n, int64_t d, int64_t kind) {
  Pointwise job = {to_both, both, gradient, n, d, kind};
  parallel(gate_some, &job, parts(n, ROWS));
}

// -- rotary positions ---------------------------------------------------------------------------------------------------
JOB(Rotation, float *out; const float *x, *cosine, *sine; const int32_t *places; int64_t b, t, h, d, turned, rows, angles;
    float sign);

static void rotate_some(const void *job, int64_t i, int thread) {
  const Rotation *p = job;
  int64_t half = p->d / 2;
  (void)thread;
  for (int64_t r = i * ROWS; r < least((i + 1) * ROWS, p->b * p->t); r++) {
    int64_t place = p->places[p->rows == 1 ? r % p->t : r];
    if (!inside(place, p->angles)) return;
    const float *c = p->cosine + place * p->d, *s = p->sine + place * p->d;
    for (int64_t h = 0; h < p->h; h++) {
      const float *x = p->x + (r * p->h + h) * p->d;
      float *out = p->out + (r * p->h + h) * p->d;
      if (h >= p->turned) {
        memcpy(out, x, p->d * sizeof(float));
        continue;
      }
      for (int64_t j = 0; j < half; j++) {
        float low = x[j], high = x[j + half];
        out[j] = low * c[j] - p->sign * high * s[j];
        out[j + half] = high * c[j + half] + p->sign * low * s[j + half];
      }
    }
  }
}

// out (b, t, h, d) = x with its first heads turned by the angles at places (rows, t), rows = b or 1, of a table that has so
// many, and the others as they are; sign -1 turns back (the gradient)
void rotate(float *out, const float *x, const float *cosine, const float *sine, const int32_t *places, int64_t b,
            int64_t t, int64_t h, int64_t d, int64_t turned, int64_t rows, int64_t angles, int64_t sign) {
  Rotation job = {out, x, cosine, sine, places, b, t, h, d, turned, rows, angles, (float)sign};
  parallel(rotate_some, &job, parts(b * t, ROWS));
}
