// Sums, activations and gates, element by element.
#include "numeric.h"
#include "rows.h"

typedef struct {
  float *out;
  const float *x, *y;
  int64_t n;
} Sum;

static void add_chunk(const void *job, int64_t i, int thread) {
  const Sum *p = job;
  (void)thread;
  for (int64_t j = i * CHUNK; j < min64((i + 1) * CHUNK, p->n); j++) p->out[j] = p->x[j] + p->y[j];
}

// out (n) = x + y
void add(float *out, const float *x, const float *y, int64_t n) {
  Sum job = {out, x, y, n};
  parallel_for(add_chunk, &job, ceil_div(n, CHUNK));
}

// Each activation is x · gate(x). GELU in its tanh form is x · sigmoid(2u) with u = √(2/π)·(x + 0.044715·x³), since
// (1 + tanh u) / 2 = sigmoid(2u); in its exact form x · Φ(x). RELU2 is the square of RELU.
enum { SILU, GELU, GELU_ERF, RELU, RELU2 };
typedef struct {
  float *out;
  const float *x, *gradient;
  int64_t n, d, kind;
} Pointwise;

static inline float gelu_slope(float x) { return 1.5957691216f * (1.0f + 3.0f * 0.044715f * x * x); }
static inline float gate_value(float x, int kind) {
  if (kind == GELU_ERF) return normal_below(x);
  if (kind == RELU) return x > 0.0f ? 1.0f : 0.0f;
  if (kind == RELU2) return x > 0.0f ? x : 0.0f;
  return sigmoid(kind == SILU ? x : 1.5957691216f * (x + 0.044715f * x * x * x));
}
// of x · s with s = gate_value(x)
static inline float derivative(float x, float s, int kind) {
  if (kind == GELU_ERF) return s + 0.3989422804f * x * bell(x);
  if (kind == RELU) return s;
  if (kind == RELU2) return 2.0f * s;
  return s * (1.0f + x * (1.0f - s) * (kind == SILU ? 1.0f : gelu_slope(x)));
}

static void activation_chunk(const void *job, int64_t i, int thread) {
  const Pointwise *p = job;
  int64_t end = min64((i + 1) * CHUNK, p->n);
  (void)thread;
#define EACH(form, value)                                                                                              \
  if (p->kind == (form))                                                                                               \
    for (int64_t j = i * CHUNK; j < end; j++) {                                                                        \
      float x = p->x[j], s = gate_value(x, form);                                                                         \
      p->out[j] = value;                                                                                               \
    }
  if (p->gradient) {
    EACH(SILU, p->gradient[j] * derivative(x, s, SILU))
    EACH(GELU, p->gradient[j] * derivative(x, s, GELU))
    EACH(GELU_ERF, p->gradient[j] * derivative(x, s, GELU_ERF))
    EACH(RELU, p->gradient[j] * derivative(x, s, RELU))
    EACH(RELU2, p->gradient[j] * derivative(x, s, RELU2))
  } else {
    EACH(SILU, x * s)
    EACH(GELU, x * s)
    EACH(GELU_ERF, x * s)
    EACH(RELU, x * s)
    EACH(RELU2, x * s)
  }
}

// out (n) = x · gate(x)
void activation(float *out, const float *x, int64_t n, int64_t kind) {
  Pointwise job = {out, x, 0, n, 0, kind};
  parallel_for(activation_chunk, &job, ceil_div(n, CHUNK));
}

void activation_backward(float *to_x, const float *gradient, const float *x, int64_t n, int64_t kind) {
  Pointwise job = {to_x, x, gradient, n, 0, kind};
  parallel_for(activation_chunk, &job, ceil_div(n, CHUNK));
}

static void gated_chunk(const void *job, int64_t i, int thread) {
  const Pointwise *p = job;
  int64_t d = p->d;
  (void)thread;
  for (int64_t r = i * ROWS; r < min64((i + 1) * ROWS, p->n); r++) {
    const float *gate = p->x + 2 * r * d, *up = gate + d, *g = p->gradient + r * d;
    float *to_gate = p->out + 2 * r * d, *to_up = to_gate + d, *out = p->out + r * d;
#define EACH_GATE(form)                                                                                                \
  if (p->kind == (form) && p->gradient)                                                                                \
    for (int64_t j = 0; j < d; j++) {                                                                                  \
      float x = gate[j], s = gate_value(x, form);                                                                         \
      to_up[j] = g[j] * x * s;                                                                                         \
      to_gate[j] = g[j] * up[j] * derivative(x, s, form);                                                              \
    }                                                                                                                  \
  if (p->kind == (form) && !p->gradient)                                                                               \
    for (int64_t j = 0; j < d; j++) out[j] = gate[j] * gate_value(gate[j], form) * up[j];
    EACH_GATE(SILU)
    EACH_GATE(GELU)
    EACH_GATE(GELU_ERF)
    EACH_GATE(RELU)
    EACH_GATE(RELU2)
  }
}

// out (n, d) = x · gate(x) · up for x and up side by side (n, 2, d)
void gated(float *out, const float *both, int64_t n, int64_t d, int64_t kind) {
  Pointwise job = {out, both, 0, n, d, kind};
  parallel_for(gated_chunk, &job, ceil_div(n, ROWS));
}

void gated_backward(float *to_both, const float *gradient, const float *both, int64_t n, int64_t d, int64_t kind) {
  Pointwise job = {to_both, both, gradient, n, d, kind};
  parallel_for(gated_chunk, &job, ceil_div(n, ROWS));
}
