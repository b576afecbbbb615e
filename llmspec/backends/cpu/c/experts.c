// Mixture of experts: the router's choice, tokens to the rows of their experts and back, and one product an expert.
//
// A choice is a token and its rank, n · k + rank. Rows hold one choice each, those of an expert together, in the order of
// the tokens; `places` leads from a choice to its row, `choices` back, and expert e has the rows starts[e] … starts[e + 1] - 1.
#include "gemm.h"
#include "halves.h"
#include "linear.h"
#include "numeric.h"
#include "quantised.h"
#include "rows.h"

typedef struct {
  float *out;
  int32_t *chosen;
  const float *logits, *correction;
  int64_t n, e, k;
  int by_sigmoid, normalise;
  float scale;
} Router;

static const float SMALLEST_SUM = 1e-20f;

static void softmax_row(float *s, const float *x, int64_t e) {
  float high = row_max(x, e), sum = 0.0f;
  for (int64_t j = 0; j < e; j++) s[j] = exp_negative(x[j] - high);
  for (int64_t j = 0; j < e; j++) sum += s[j];
  for (int64_t j = 0; j < e; j++) s[j] /= sum;
}

// The k highest of s + correction, the highest first, of equal ones the first; of what is no number the first that is left
static void highest(int32_t *chosen, const float *s, const float *correction, int64_t e, int64_t k) {
  for (int64_t r = 0; r < k; r++) {
    int64_t best = -1;
    float high = 0.0f;
    for (int64_t j = 0; j < e; j++) {
      float wanted = correction ? s[j] + correction[j] : s[j];
      if (best >= 0 && !(wanted > high)) continue;
      int64_t before = 0;
      while (before < r && chosen[before] != j) before++;
      if (before < r) continue;
      best = j;
      high = wanted;
    }
    chosen[r] = (int32_t)best;
  }
}

static void router_rows(const void *job, int64_t i, int thread) {
  const Router *p = job;
  (void)thread;
  for (int64_t n = i * ROWS; n < min64((i + 1) * ROWS, p->n); n++) {
    const float *x = p->logits + n * p->e;
    float *weights = p->out + n * (p->k + p->e), *s = weights + p->k, sum = 0.0f;
    int32_t *chosen = p->chosen + n * p->k;
    if (p->by_sigmoid)
      for (int64_t j = 0; j < p->e; j++) s[j] = sigmoid(x[j]);
    else softmax_row(s, x, p->e);
    highest(chosen, s, p->correction, p->e, p->k);
    for (int64_t r = 0; r < p->k; r++) sum += s[chosen[r]];
    for (int64_t r = 0; r < p->k; r++)
      weights[r] = p->normalise ? p->scale * s[chosen[r]] / (sum + SMALLEST_SUM) : p->scale * s[chosen[r]];
  }
}

// Of logits (n, e): out (n, k + e) are the weights of a token's experts and all its scores, softmax or sigmoid; the expert of
// each choice, how many tokens each has, and the rows. `correction` (e) is added for the choice alone, if `corrected`.
void router(float *out, int32_t *chosen, int32_t *tokens, int32_t *places, int32_t *choices, int32_t *starts,
            const float *logits, const float *correction, int64_t n, int64_t e, int64_t k, int64_t by_sigmoid,
            int64_t normalise, int64_t corrected, float scale) {
  Router job = {out, chosen, logits, corrected ? correction : 0, n, e, k, (int)by_sigmoid, (int)normalise, scale};
  parallel_for(router_rows, &job, ceil_div(n, ROWS));
  memset(tokens, 0, e * sizeof *tokens);
  for (int64_t a = 0; a < n * k; a++) tokens[chosen[a]]++;
  starts[0] = 0;
  for (int64_t j = 0; j < e; j++) starts[j + 1] = starts[j] + tokens[j];
  for (int64_t a = 0; a < n * k; a++) {
    places[a] = starts[chosen[a]]++;
    choices[places[a]] = (int32_t)a;
  }
  for (int64_t j = e; j > 0; j--) starts[j] = starts[j - 1];
  starts[0] = 0;
}

typedef struct {
  float *to_logits;
  const float *gradient, *out;
  const int32_t *chosen;
  int64_t n, e, k;
  int by_sigmoid, normalise;
  float scale;
} RouterBack;

static void router_back_rows(const void *job, int64_t i, int thread) {
  const RouterBack *p = job;
  (void)thread;
  for (int64_t n = i * ROWS; n < min64((i + 1) * ROWS, p->n); n++) {
    const float *g = p->gradient + n * (p->k + p->e), *s = p->out + n * (p->k + p->e) + p->k;
    const int32_t *chosen = p->chosen + n * p->k;
    float *to = p->to_logits + n * p->e, sum = 0.0f, mean = 0.0f, all = 0.0f;
    for (int64_t r = 0; r < p->k; r++)
      if (!check_index(chosen[r], p->e)) return;
    for (int64_t r = 0; r < p->k; r++) sum += s[chosen[r]];
    for (int64_t r = 0; r < p->k; r++) mean += g[r] * s[chosen[r]] / (sum + SMALLEST_SUM);
    for (int64_t j = 0; j < p->e; j++) to[j] = g[p->k + j];
    for (int64_t r = 0; r < p->k; r++)
      to[chosen[r]] += p->scale * (p->normalise ? (g[r] - mean) / (sum + SMALLEST_SUM) : g[r]);
    for (int64_t j = 0; j < p->e; j++) all += to[j] * s[j];
    for (int64_t j = 0; j < p->e; j++) to[j] = p->by_sigmoid ? to[j] * s[j] * (1.0f - s[j]) : s[j] * (to[j] - all);
  }
}

// The gradient of the router for its logits (n, e), from that of `out` (n, k + e)
void router_backward(float *to_logits, const float *gradient, const float *out, const int32_t *chosen, int64_t n, int64_t e,
                     int64_t k, int64_t by_sigmoid, int64_t normalise, float scale) {
  RouterBack job = {to_logits, gradient, out, chosen, n, e, k, (int)by_sigmoid, (int)normalise, scale};
  parallel_for(router_back_rows, &job, ceil_div(n, ROWS));
}

typedef struct {
  float *out, *to_weights;
  const float *x, *weights, *y;
  const int32_t *index;
  int64_t n, k, d, limit;
} Moved;

// rows (n · k, d) = x of the token of each row, times the weight of its choice where there are weights
static void rows_from_tokens(const void *job, int64_t i, int thread) {
  const Moved *p = job;
  (void)thread;
  for (int64_t r = i * ROWS; r < min64((i + 1) * ROWS, p->n * p->k); r++) {
    if (!check_index(p->index[r], p->n * p->k)) return;
    const float *x = p->x + p->index[r] / p->k * p->d;
    float *out = p->out + r * p->d, weight = p->weights ? p->weights[p->index[r]] : 1.0f;
    for (int64_t j = 0; j < p->d; j++) out[j] = weight * x[j];
  }
}

// out (n, d) = the sum of the rows of a token's choices in their order, each times its weight where there are weights
static void tokens_from_rows(const void *job, int64_t i, int thread) {
  const Moved *p = job;
  (void)thread;
  for (int64_t n = i * ROWS; n < min64((i + 1) * ROWS, p->n); n++) {
    float *out = p->out + n * p->d;
    for (int64_t j = 0; j < p->d; j++) out[j] = 0.0f;
    for (int64_t a = n * p->k; a < (n + 1) * p->k; a++) {
      if (!check_index(p->index[a], p->n * p->k)) return;
      const float *x = p->x + p->index[a] * p->d;
      float weight = p->weights ? p->weights[a] : 1.0f;
      for (int64_t j = 0; j < p->d; j++) out[j] += weight * x[j];
    }
  }
}

// to_weights (n, k) = the products of a token's y with the rows of its choices
static void weights_from_rows(const void *job, int64_t i, int thread) {
  const Moved *p = job;
  (void)thread;
  for (int64_t a = i * ROWS; a < min64((i + 1) * ROWS, p->n * p->k); a++) {
    if (!check_index(p->index[a], p->n * p->k)) return;
    const float *x = p->x + p->index[a] * p->d, *y = p->y + a / p->k * p->d;
    float sum = 0.0f;
    for (int64_t j = 0; j < p->d; j++) sum += x[j] * y[j];
    p->to_weights[a] = sum;
  }
}

// rows (n · k, d): each token of x (n, d) once for each of its experts
void dispatch(float *rows, const float *x, const int32_t *choices, int64_t n, int64_t k, int64_t d) {
  Moved job = {.out = rows, .x = x, .index = choices, .n = n, .k = k, .d = d};
  parallel_for(rows_from_tokens, &job, ceil_div(n * k, ROWS));
}

void dispatch_backward(float *to_x, const float *gradient, const int32_t *places, int64_t n, int64_t k, int64_t d) {
  Moved job = {.out = to_x, .x = gradient, .index = places, .n = n, .k = k, .d = d};
  parallel_for(tokens_from_rows, &job, ceil_div(n, ROWS));
}

// y (n, d): the rows of a token's experts, each times its weight (n, k), summed up
void combine(float *y, const float *rows, const float *weights, const int32_t *places, int64_t n, int64_t k, int64_t d) {
  Moved job = {.out = y, .x = rows, .weights = weights, .index = places, .n = n, .k = k, .d = d};
  parallel_for(tokens_from_rows, &job, ceil_div(n, ROWS));
}

void combine_backward(float *to_rows, float *to_weights, const float *gradient, const float *rows, const float *weights,
                      const int32_t *places, const int32_t *choices, int64_t n, int64_t k, int64_t d) {
  Moved job = {.out = to_rows, .x = gradient, .weights = weights, .index = choices, .n = n, .k = k, .d = d};
  Moved products = {.to_weights = to_weights, .x = rows, .y = gradient, .index = places, .n = n, .k = k, .d = d};
  parallel_for(rows_from_tokens, &job, ceil_div(n * k, ROWS));
  parallel_for(weights_from_rows, &products, ceil_div(n * k, ROWS));
}

// Whether starts (e + 1) divides r rows among e experts
static int divides(const int32_t *starts, int64_t e, int64_t r) {
  for (int64_t j = 0; j <= e; j++)
    if (!check_index((int64_t)starts[j] - (j ? starts[j - 1] : 0), r + 1) || !check_index(starts[j], r + 1)) return 0;
  return 1;
}

// Up to three layers of one input with weights (e, o, i) and biases (e, o) of each row's expert, side by side:
// y (r, o1 + o2 + o3). By sequence, what a row gets does not depend on the others: `single` where each sequence has one.
void grouped_linear(float *y, const float *x, const float *w1, const float *w2, const float *w3, const float *b1,
                    const float *b2, const float *b3, const int32_t *starts, int64_t r, int64_t e, int64_t i, int64_t o1,
                    int64_t o2, int64_t o3, int64_t biased, int64_t by_sequence, int64_t single) {
  int64_t wide = o1 + o2 + o3;
  if (!divides(starts, e, r)) return;
  for (int64_t j = 0; j < e; j++) {
    int64_t at = starts[j], n = starts[j + 1] - at;
    const void *w[] = {w1 + j * o1 * i, w2 + j * o2 * i, w3 + j * o3 * i};
    const int64_t plain[3] = {0};
    const float *b[] = {b1 + j * o1, b2 + j * o2, b3 + j * o3};
    if (!n) continue;
    if (by_sequence)
      linear_by_row(y + at * wide, x + at * i, w, plain, b, n, i, (int64_t[]){o1, o2, o3}, biased, single);
    else
      linear(y + at * wide, x + at * i, w[0], w[1], w[2], b[0], b[1], b[2], n, i, o1, o2, o3, biased);
  }
}

// grouped_linear with stacks of weights as they lie in files: all packed (quantised.h), each expert's matrix by itself, or
// all of 16 bits (halves.h). No gradient.
void grouped_held(float *y, const float *x, const char *w1, const char *w2, const char *w3, const float *b1, const float *b2,
                  const float *b3, const int32_t *starts, int64_t r, int64_t e, int64_t i, int64_t o1, int64_t o2, int64_t o3,
                  int64_t t1, int64_t t2, int64_t t3, int64_t biased, int64_t by_sequence, int64_t single) {
  const int64_t o[] = {o1, o2, o3}, types[] = {t1, t2, t3}, wide = o1 + o2 + o3;
  int64_t bytes[3];
  if (!divides(starts, e, r)) return;
  for (int m = 0; m < 3; m++) bytes[m] = !o[m] ? 0 : is_half(types[m]) ? 2 * o[m] * i : packed_bytes(o[m], i, types[m]);
  for (int64_t j = 0; j < e; j++) {
    int64_t at = starts[j], n = starts[j + 1] - at;
    const void *w[] = {w1 + j * bytes[0], w2 + j * bytes[1], w3 + j * bytes[2]};
    const float *b[] = {b1 + j * o1, b2 + j * o2, b3 + j * o3}, *from = x + at * i;
    float *to = y + at * wide;
    if (!n) continue;
    if (!is_half(t1)) quantised_linear(to, from, w[0], w[1], w[2], b[0], b[1], b[2], n, i, o1, o2, o3, t1, t2, t3, biased);
    else if (by_sequence) linear_by_row(to, from, w, types, b, n, i, o, biased, single);
    else layers_of_halves(to, from, w, types, b, n, i, o, biased);
  }
}

// The gradients of grouped_linear for x, each w (e, o, i), and the biases (e, o1 + o2 + o3)
void grouped_linear_backward(float *to_x, float *to_w1, float *to_w2, float *to_w3, float *to_b, const float *gradient,
                             const float *x, const float *w1, const float *w2, const float *w3, const int32_t *starts,
                             int64_t r, int64_t e, int64_t i, int64_t o1, int64_t o2, int64_t o3, int64_t biased) {
  int64_t wide = o1 + o2 + o3, o[] = {o1, o2, o3};
  float *to_w[] = {to_w1, to_w2, to_w3};
  if (!divides(starts, e, r)) return;
  for (int64_t j = 0; j < e; j++) {
    int64_t at = starts[j], n = starts[j + 1] - at;
    float *own[] = {to_w1 + j * o1 * i, to_w2 + j * o2 * i, to_w3 + j * o3 * i};
    for (int m = 0; m < 3 && !n; m++)
      if (o[m]) memset(to_w[m] + j * o[m] * i, 0, o[m] * i * sizeof(float));
    if (!n && biased) memset(to_b + j * wide, 0, wide * sizeof(float));
    if (n)
      linear_backward(to_x + at * i, own[0], own[1], own[2], to_b + j * wide * biased, gradient + at * wide, x + at * i,
                      w1 + j * o1 * i, w2 + j * o2 * i, w3 + j * o3 * i, n, i, o1, o2, o3, biased);
  }
}
