// Sums over rows in two stages: chunks of rows, then the chunks in their order.
#include "rows.h"

typedef struct {
  const float *in;
  float *out, *partial;
  int64_t n, d, chunks;
} Columns;

static void sum_partials_stripe(const void *job, int64_t i, int thread) {
  const Columns *p = job;
  int64_t end = min64((i + 1) * STRIPE, p->d);
  (void)thread;
  for (int64_t j = i * STRIPE; j < end; j++) p->out[j] = 0.0f;
  for (int64_t c = 0; c < p->chunks; c++)
    for (int64_t j = i * STRIPE; j < end; j++) p->out[j] += p->partial[c * p->d + j];
}

static void column_chunk(const void *job, int64_t i, int thread) {
  const Columns *p = job;
  float *sum = p->partial + i * p->d;
  (void)thread;
  memset(sum, 0, p->d * sizeof(float));
  for (int64_t r = i * ROWS; r < min64((i + 1) * ROWS, p->n); r++)
    for (int64_t j = 0; j < p->d; j++) sum[j] += p->in[r * p->d + j];
}

void sum_partials(float *out, float *partial, int64_t chunks, int64_t d) {
  Columns job = {.out = out, .partial = partial, .d = d, .chunks = chunks};
  parallel_for(sum_partials_stripe, &job, ceil_div(d, STRIPE));
}

void column_sums(float *out, const float *x, int64_t n, int64_t d) {
  int64_t chunks = ceil_div(n, ROWS);
  Columns job = {x, out, scratch(SHARED, PARTIAL, chunks * d), n, d, chunks};
  if (!job.partial) return;
  parallel_for(column_chunk, &job, chunks);
  sum_partials(out, job.partial, chunks, d);
}
