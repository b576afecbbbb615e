// Muon's step: momentum, orthogonalised by Newton–Schulz (Jordan et al. 2024).
#include "gemm.h"
#include "optimizer.h"
#include "rows.h"

typedef struct {
  float *m, *x;
  const float *g;
  int64_t rows, columns;
  float momentum, scale;
  int nesterov, tall;
} Momentum;

// x (wide form) = the direction of a step; a row of the gradient an iteration
static void momentum_row(const void *job, int64_t r, int thread) {
  const Momentum *p = job;
  (void)thread;
  for (int64_t j = 0; j < p->columns; j++) {
    int64_t at = r * p->columns + j;
    float g = (1.0f - p->momentum) * p->scale * p->g[at], m = p->m[at] = p->momentum * p->m[at] + g;
    p->x[p->tall ? j * p->rows + r : at] = p->nesterov ? g + p->momentum * m : m;
  }
}

typedef struct {
  float *out;
  const float *x, *y;
  int64_t n;
  float a, b;
} LinearCombination;

// out = a · x + b · y
static void mix_chunk(const void *job, int64_t i, int thread) {
  const LinearCombination *p = job;
  int64_t end = min64((i + 1) * CHUNK, p->n);
  (void)thread;
  for (int64_t j = i * CHUNK; j < end; j++) p->out[j] = p->a * p->x[j] + (p->b ? p->b * p->y[j] : 0.0f);
}

static void mix(float *out, float a, const float *x, float b, const float *y, int64_t n) {
  LinearCombination job = {out, x, y, n, a, b};
  parallel_for(mix_chunk, &job, ceil_div(n, CHUNK));
}

typedef struct {
  float *w;
  const float *x;
  int64_t rows, columns;
  float kept, step; // kept = 1 - lr · decay
  int tall;
} Update;

static void update_row(const void *job, int64_t r, int thread) {
  const Update *p = job;
  (void)thread;
  for (int64_t j = 0; j < p->columns; j++) {
    float *w = p->w + r * p->columns + j;
    *w = *w * p->kept - p->step * p->x[p->tall ? j * p->rows + r : r * p->columns + j];
  }
}

// The step on w (rows, columns) with momentum m, in place: the nearest matrix to the direction whose singular values are
// about one, times √max(1, rows / columns). scalars[0] is the learning rate; scale (1) multiplies the gradient.
static void muon_of_matrix(float *w, float *m, const float *g, const float *scalars, const float *scale, int64_t rows,
                           int64_t columns, int64_t nesterov, int64_t iterations, float momentum, float decay, float a,
                           float b, float c) {
  int tall = rows > columns;
  int64_t small = min64(rows, columns), large = max64(rows, columns), n = rows * columns;
  float *x = scratch(SHARED, MUON_X, n), *y = scratch(SHARED, MUON_Y, n), *gram = scratch(SHARED, MUON_GRAM, small * small);
  float *square = scratch(SHARED, MUON_SQUARE, small * small), squares, lr = scalars[0];
  if (!x || !y || !gram || !square) return;
  Momentum first = {m, x, g, rows, columns, momentum, *scale, (int)nesterov, tall};
  parallel_for(momentum_row, &first, rows);
  square_sum(&squares, x, n);
  mix(x, 1.0f / (__builtin_sqrtf(squares) + 1e-7f), x, 0, x, n);
  for (int64_t i = 0; i < iterations; i++) {
    Matrix wide = {x, large, 1}, symmetric = {gram, small, 1};
    gemm(gram, small, wide, transposed(wide), small, small, large, 0, 0);
    gemm(square, small, symmetric, symmetric, small, small, small, 0, 0);
    mix(gram, b, gram, c, square, small * small);
    mix(y, a, x, 0, x, n);
    gemm(y, large, symmetric, wide, small, large, small, 1, 0);
    float *other = x;
    x = y;
    y = other;
  }
  float stretch = rows > columns ? __builtin_sqrtf((float)rows / columns) : 1.0f;
  Update last = {w, x, rows, columns, 1.0f - lr * decay, lr * stretch, tall};
  parallel_for(update_row, &last, rows);
}

// The same for each matrix of a stack (count, rows, columns), such as experts
void muon(float *w, float *m, const float *g, const float *scalars, const float *scale, int64_t count, int64_t rows,
          int64_t columns, int64_t nesterov, int64_t iterations, float momentum, float decay, float a, float b, float c) {
  for (int64_t i = 0, at = 0; i < count; i++, at += rows * columns)
    muon_of_matrix(w + at, m + at, g + at, scalars, scale, rows, columns, nesterov, iterations, momentum, decay, a, b, c);
}
