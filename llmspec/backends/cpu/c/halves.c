// Linear layers whose weights have 16 bits a number, and rows of such matrices (halves.h).
#include "halves.h"
#include "frozen.h"
#include "linear.h"

static inline __attribute__((always_inline)) void widen_of(float *out, const int type, const char *from, int64_t k) {
  int64_t j = 0;
  for (; j + LANES <= k; j += LANES) *(Loose *)(out + j) = load_lanes(type, from + 2 * j);
  for (; j < k; j++) out[j] = load_number(type, from + 2 * j);
}

void widen(float *out, int64_t type, const char *from, int64_t k) {
  if (type == HALF_16) widen_of(out, HALF_16, from, k);
  else widen_of(out, BFLOAT_16, from, k);
}

typedef struct {
  float *out;
  const char *weights;
  const int32_t *ids; // 0: one row after another
  int64_t n, k, v, type;
} Widened;

enum { WIDENED_ROWS = 8 };

static void widen_some(const void *job, int64_t i, int thread) {
  const Widened *p = job;
  (void)thread;
  for (int64_t r = i * WIDENED_ROWS; r < min64((i + 1) * WIDENED_ROWS, p->n); r++) {
    int64_t row = p->ids ? p->ids[r] : r;
    if (p->ids && !check_index(row, p->v)) return;
    widen(p->out + r * p->k, p->type, p->weights + 2 * row * p->k, p->k);
  }
}

void widened_rows(float *out, const void *weights, int64_t start, int64_t rows, int64_t k, int64_t type) {
  Widened job = {out, (const char *)weights + 2 * start * k, 0, rows, k, 0, type};
  parallel_for(widen_some, &job, ceil_div(rows, WIDENED_ROWS));
}

void half_rows(float *out, const void *weights, const int32_t *ids, int64_t n, int64_t k, int64_t v, int64_t type) {
  Widened job = {out, weights, ids, n, k, v, type};
  parallel_for(widen_some, &job, ceil_div(n, WIDENED_ROWS));
}

void layers_of_halves(float *y, const float *x, const void *const *w, const int64_t *types, const float *const *b, int64_t n,
                      int64_t i, const int64_t *o, int64_t biased) {
  Gemm each[3];
  int64_t wide = o[0] + o[1] + o[2];
  int count = 0, at[3];
  float *out = y;
  for (int j = 0; j < 3; out += o[j++])
    if (o[j]) {
      at[count] = j;
      each[count++] = (Gemm){out, wide, {x, i, 1}, {w[j], 1, i}, n, o[j], i, 0, biased ? b[j] : 0, 0, 0, 0, 0, 0, types[j]};
    }
  if (gemm_weights(each, count)) return;
  for (int j = 0; j < count; j++) {
    FrozenWeights own = {w[at[j]], o[at[j]], i, types[at[j]]};
    if (!forward_frozen(each[j].c, wide, x, own, each[j].bias, n)) return;
  }
}

void half_linear(float *y, const float *x, const void *w1, const void *w2, const void *w3, const float *b1, const float *b2,
                 const float *b3, int64_t sequences, int64_t t, int64_t i, int64_t o1, int64_t o2, int64_t o3, int64_t t1,
                 int64_t t2, int64_t t3, int64_t biased) {
  const void *w[] = {w1, w2, w3};
  const float *b[] = {b1, b2, b3};
  int64_t o[] = {o1, o2, o3}, types[] = {t1, t2, t3}, wide = o1 + o2 + o3;
  if (sequences && (t == 1 || !gemm_by_blas())) {
    linear_by_row(y, x, w, types, b, sequences * t, i, o, biased, t == 1);
    return;
  }
  for (int64_t s = 0; s < max64(1, sequences); s++)
    layers_of_halves(y + s * t * wide, x + s * t * i, w, types, b, t, i, o, biased);
}
