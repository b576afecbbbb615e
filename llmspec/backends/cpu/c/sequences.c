// Linear layers of sequences decoded side by side: what a sequence gets does not depend on the others, bit for bit.
//
// One token each: every number is a sum in one order of its own, however many rows there are. Prompts: either products
// whose sums run over all of k, whatever the other rows are, or, where a BLAS multiplies, one sequence after another.

#include "gemm.h"
#include "halves.h"
#include "linear.h"

// The order of every sum: column t of a row goes to accumulator t / LANES % 4, lane t % LANES, the columns after the last
// four accumulators' worth to the first one; then accumulators, then halves of their lanes, are added up, and columns that
// fill no lanes come last.
enum { DOT_ROWS = 4 };

// Elements (rows ≤ DOT_ROWS, 1) of c (m, n) = a (m, k) · wᵀ, w (n, k), plus bias
static inline __attribute__((always_inline)) void dots(const Gemm *p, int64_t r, int rows, int64_t j,
                                                       const int type) {
#pragma clang fp reassociate(off)
  const int64_t size = number_bytes(type);
  const float *a = p->a.at + r * p->a.row;
  const char *w = (const char *)p->b.at + j * p->b.column * size, *ahead = ahead_of(p, w);
  int64_t k = p->k, step = p->a.row, t = 0;
  float bias = p->bias ? p->bias[j] : 0.0f, *c = p->c + r * p->stride + j;
  Lanes sums[DOT_ROWS][4] = {{{0}}};
  for (; t + 4 * LANES <= k; t += 4 * LANES) {
#pragma clang loop unroll(full)
    for (int u = 0; u < 4; u++) {
      if (!r) __builtin_prefetch(ahead + (t + u * LANES) * size, 0, 2);
      Lanes weights = load_lanes(type, w + (t + u * LANES) * size);
#pragma clang loop unroll(full)
      for (int i = 0; i < rows; i++) sums[i][u] += *(const Loose *)(a + i * step + t + u * LANES) * weights;
    }
  }
  for (; t + LANES <= k; t += LANES)
    for (int i = 0; i < rows; i++) sums[i][0] += *(const Loose *)(a + i * step + t) * load_lanes(type, w + t * size);
#pragma clang loop unroll(full)
  for (int i = 0; i < rows; i++) {
    Lanes x = sums[i][0] + ((sums[i][1] + sums[i][2]) + sums[i][3]);
#if defined(__AVX512F__)
    x += __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
#endif
#if defined(__AVX__)
    typedef float Four __attribute__((vector_size(16)));
    Four y = __builtin_shufflevector(x, x, 0, 1, 2, 3) + __builtin_shufflevector(x, x, 4, 5, 6, 7);
#else
    Lanes y = x;
#endif
    float sum = (y[0] + y[2]) + (y[1] + y[3]);
    for (int64_t v = t; v < k; v++) sum += a[i * step + v] * load_number(type, w + v * size);
    c[i * p->stride] = sum + bias;
  }
}

static inline __attribute__((always_inline)) void columns_of(const Gemm *p, int64_t i, const int type) {
  int64_t end = min64((i + 1) * p->columns, p->n), start = i * p->columns, r = 0;
  for (; r + DOT_ROWS <= p->m; r += DOT_ROWS)
    for (int64_t j = start; j < end; j++) dots(p, r, DOT_ROWS, j, type);
  for (int64_t j = start; j < end && p->m - r == 3; j++) dots(p, r, 3, j, type);
  for (int64_t j = start; j < end && p->m - r == 2; j++) dots(p, r, 2, j, type);
  for (int64_t j = start; j < end && p->m - r == 1; j++) dots(p, r, 1, j, type);
}

static void dots_of_columns(const void *job, int64_t i, int thread) {
  const Gemm *p = job;
  (void)thread;
  if (p->type == HALF_16) columns_of(p, i, HALF_16);
  else if (p->type == BFLOAT_16) columns_of(p, i, BFLOAT_16);
  else columns_of(p, i, FLOAT_32);
}

void linear_by_row(float *y, const float *x, const void *const *w, const int64_t *types, const float *const *b, int64_t n,
                   int64_t i, const int64_t *o, int64_t biased, int64_t single) {
  int64_t wide = o[0] + o[1] + o[2], share = single ? n : ceil_div(n, ceil_div(n, PROMPT_ROWS));
  for (int64_t start = 0; start < n; start += share) {
    Gemm each[3];
    int count = 0;
    float *out = y + start * wide;
    for (int j = 0; j < 3; out += o[j++])
      if (o[j])
        each[count++] = (Gemm){out, wide, {x + start * i, i, 1}, {(const float *)w[j], 1, i}, min64(share, n - start), o[j], i, 0,
                                  biased ? b[j] : 0, 0, 0, 0, 0, 0, types[j]};
    for (int j = 0; j < count; j++) each[j].columns = gemv_columns(each[j].n);
    if (single)
      gemm_joined(each, count, dots_of_columns);
    else
      gemm_prompt(each, count);
  }
}

// Whether a BLAS multiplies, whose order of sums follows the number of rows
int64_t uses_blas(void) { return gemm_by_blas(); }

// `linear` for sequences of t tokens each, n = sequences · t rows: a sequence's results are those that it has alone
void linear_by_sequence(float *y, const float *x, const float *w1, const float *w2, const float *w3, const float *b1,
                        const float *b2, const float *b3, int64_t sequences, int64_t t, int64_t i, int64_t o1, int64_t o2,
                        int64_t o3, int64_t biased) {
  const void *w[] = {w1, w2, w3};
  const float *b[] = {b1, b2, b3};
  int64_t o[] = {o1, o2, o3}, wide = o1 + o2 + o3, types[] = {FLOAT_32, FLOAT_32, FLOAT_32};
  if (t > 1 && gemm_by_blas()) {
    for (int64_t s = 0; s < sequences; s++)
      linear(y + s * t * wide, x + s * t * i, w1, w2, w3, b1, b2, b3, t, i, o1, o2, o3, biased);
    return;
  }
  linear_by_row(y, x, w, types, b, sequences * t, i, o, biased, t == 1);
}
