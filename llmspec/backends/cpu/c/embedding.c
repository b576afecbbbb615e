// Rows of tables, and the gradient of a table.
#include "rows.h"

typedef struct {
  float *out;
  const float *in;
  const int32_t *ids;
  int64_t n, d, v;
} Gather;

static void gather_chunk(const void *job, int64_t i, int thread) {
  const Gather *p = job;
  (void)thread;
  for (int64_t r = i * ROWS; r < min64((i + 1) * ROWS, p->n); r++)
    if (check_index(p->ids[r], p->v)) memcpy(p->out + r * p->d, p->in + (int64_t)p->ids[r] * p->d, p->d * sizeof(float));
}

// out (n, d) = table (v, d) at ids (n)
void gather_rows(float *out, const float *table, const int32_t *ids, int64_t n, int64_t d, int64_t v) {
  Gather job = {out, table, ids, n, d, v};
  parallel_for(gather_chunk, &job, ceil_div(n, ROWS));
}

static void scatter_stripe(const void *job, int64_t i, int thread) {
  const Gather *p = job;
  int64_t start = i * STRIPE, width = min64(STRIPE, p->d - start);
  (void)thread;
  for (int64_t r = 0; r < p->v; r++) memset(p->out + r * p->d + start, 0, width * sizeof(float));
  for (int64_t r = 0; r < p->n; r++) {
    if (!check_index(p->ids[r], p->v)) return;
    float *row = p->out + (int64_t)p->ids[r] * p->d + start;
    const float *g = p->in + r * p->d + start;
    for (int64_t j = 0; j < width; j++) row[j] += g[j];
  }
}

// out (v, d) = the sum over i of gradient (i, d) at row ids (i): the gradient of gather_rows, in the order of i
void scatter_rows(float *out, const float *gradient, const int32_t *ids, int64_t n, int64_t d, int64_t v) {
  Gather job = {out, gradient, ids, n, d, v};
  parallel_for(scatter_stripe, &job, ceil_div(d, STRIPE));
}
