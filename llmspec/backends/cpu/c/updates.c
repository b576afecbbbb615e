// Updates of weights beside Adam's and Muon's; what each means is written in backends/plain/updates.py.
#include "rows.h"

typedef struct {
  float *w, *m; // weight and momentum
  const float *g;
  int64_t n;
  float beta1, one_minus_beta1, beta2, one_minus_beta2, lr, kept, scale; // kept = 1 - lr · decay
} Lion;

static void lion_chunk(const void *job, int64_t i, int thread) {
  const Lion a = *(const Lion *)job;
  float *restrict w = a.w, *restrict m = a.m;
  const float *restrict gradient = a.g;
  (void)thread;
  for (int64_t j = i * CHUNK; j < min64((i + 1) * CHUNK, a.n); j++) {
    float g = gradient[j] * a.scale, c = a.beta1 * m[j] + a.one_minus_beta1 * g;
    float step = c > 0.0f ? a.lr : c < 0.0f ? -a.lr : c * 0.0f; // NaN stays NaN
    w[j] = w[j] * a.kept - step;
    m[j] = a.beta2 * m[j] + a.one_minus_beta2 * g;
  }
}

// Lion's step on w (n) with momentum m, in place; scalars = learning rate.
void lion(float *w, float *m, const float *g, const float *scalars, const float *scale, int64_t n, float beta1,
          float one_minus_beta1, float beta2, float one_minus_beta2, float decay) {
  Lion job = {w, m, g, n, beta1, one_minus_beta1, beta2, one_minus_beta2, scalars[0], 1.0f - scalars[0] * decay, *scale};
  parallel_for(lion_chunk, &job, ceil_div(n, CHUNK));
}

typedef struct {
  float *y, *z, *x, *v;
  const float *g;
  int64_t n;
  float beta1, one_minus_beta1, beta2, one_minus_beta2, eps, decay, lr, correction, share, scale;
} ScheduleFree;

static void schedule_free_chunk(const void *job, int64_t i, int thread) {
  const ScheduleFree a = *(const ScheduleFree *)job;
  float *restrict y = a.y, *restrict z = a.z, *restrict x = a.x, *restrict v = a.v;
  const float *restrict gradient = a.g;
  (void)thread;
  for (int64_t j = i * CHUNK; j < min64((i + 1) * CHUNK, a.n); j++) {
    float g = gradient[j] * a.scale;
    v[j] = a.beta2 * v[j] + a.one_minus_beta2 * g * g;
    z[j] -= a.lr * (g / (__builtin_sqrtf(v[j] * a.correction) + a.eps) + a.decay * y[j]);
    x[j] += a.share * (z[j] - x[j]);
    y[j] = a.one_minus_beta1 * z[j] + a.beta1 * x[j];
  }
}

// A step of schedule-free AdamW on y, z, x and v (n), in place; scalars = learning rate and the bias correction of v;
// weight_sum (1) is the sum of the squares of all learning rates.
void schedule_free_adamw(float *y, float *z, float *x, float *v, float *weight_sum, const float *g, const float *scalars,
                         const float *scale, int64_t n, float beta1, float one_minus_beta1, float beta2,
                         float one_minus_beta2, float eps, float decay) {
  float square = scalars[0] * scalars[0], total = *weight_sum + square;
  *weight_sum = total;
  ScheduleFree job = {y, z, x, v, g, n, beta1, one_minus_beta1, beta2, one_minus_beta2, eps, decay, scalars[0], scalars[1],
                      square / (total > 1e-38f ? total : 1e-38f), *scale};
  parallel_for(schedule_free_chunk, &job, ceil_div(n, CHUNK));
}

typedef struct {
  float *w, *row, *column; // row is the moment of each number of a vector
  const float *g;
  double *partial; // of each chunk, the sum of squares of the update and of the weight
  float *inverse;  // of each matrix, 1 / the mean of its rows' moments
  int64_t z, rows, columns;
  float old, new, eps1, scale, lr, kept;
} Adafactor;

static void adafactor_row_moments(const void *job, int64_t i, int thread) {
  const Adafactor *p = job;
  (void)thread;
  for (int64_t r = i * ROWS; r < min64((i + 1) * ROWS, p->z * p->rows); r++) {
    const float *restrict x = p->g + r * p->columns;
    float sum = 0.0f;
    for (int64_t j = 0; j < p->columns; j++) sum += (x[j] * p->scale) * (x[j] * p->scale);
    p->row[r] = p->old * p->row[r] + p->new * (sum / p->columns + p->eps1);
  }
}

static void adafactor_column_moments(const void *job, int64_t i, int thread) {
  const Adafactor *p = job;
  int64_t stripes = ceil_div(p->columns, STRIPE), matrix = i / stripes, first = i % stripes * STRIPE;
  int64_t wide = min64(STRIPE, p->columns - first);
  const float *restrict x = p->g + matrix * p->rows * p->columns + first;
  float *restrict moment = p->column + matrix * p->columns + first, sums[STRIPE] = {0};
  (void)thread;
  for (int64_t r = 0; r < p->rows; r++)
    for (int64_t j = 0; j < wide; j++) {
      float g = x[r * p->columns + j] * p->scale;
      sums[j] += g * g;
    }
  for (int64_t j = 0; j < wide; j++) moment[j] = p->old * moment[j] + p->new * (sums[j] / p->rows + p->eps1);
}

static void adafactor_sizes(const void *job, int64_t i, int thread) {
  const Adafactor *p = job;
  double updates = 0.0, weights = 0.0;
  (void)thread;
  for (int64_t r = i * ROWS; r < min64((i + 1) * ROWS, p->z * p->rows); r++) {
    const float *restrict x = p->g + r * p->columns, *restrict w = p->w + r * p->columns;
    const float *restrict column = p->column + r / p->rows * p->columns;
    float by_row = p->scale * p->scale / (p->row[r] * p->inverse[r / p->rows]), u = 0.0f, v = 0.0f;
    for (int64_t j = 0; j < p->columns; j++) u += x[j] * (x[j] * by_row) / column[j];
    for (int64_t j = 0; j < p->columns; j++) v += w[j] * w[j];
    updates += u;
    weights += v;
  }
  p->partial[2 * i] = updates;
  p->partial[2 * i + 1] = weights;
}

static void adafactor_rows(const void *job, int64_t i, int thread) {
  const Adafactor *p = job;
  (void)thread;
  for (int64_t r = i * ROWS; r < min64((i + 1) * ROWS, p->z * p->rows); r++) {
    const float *restrict x = p->g + r * p->columns, *restrict column = p->column + r / p->rows * p->columns;
    float *restrict w = p->w + r * p->columns;
    float by_row = p->lr * p->scale / __builtin_sqrtf(p->row[r] * p->inverse[r / p->rows]);
    for (int64_t j = 0; j < p->columns; j++) w[j] = w[j] * p->kept - x[j] * by_row / __builtin_sqrtf(column[j]);
  }
}

static void adafactor_vector_sizes(const void *job, int64_t i, int thread) {
  const Adafactor *p = job;
  double updates = 0.0, weights = 0.0;
  (void)thread;
  for (int64_t j = i * CHUNK; j < min64((i + 1) * CHUNK, p->columns); j++) {
    float g = p->g[j] * p->scale;
    p->row[j] = p->old * p->row[j] + p->new * (g * g + p->eps1);
    float u = g / __builtin_sqrtf(p->row[j]);
    updates += u * u;
    weights += p->w[j] * p->w[j];
  }
  p->partial[2 * i] = updates;
  p->partial[2 * i + 1] = weights;
}

static void adafactor_vector_chunk(const void *job, int64_t i, int thread) {
  const Adafactor *p = job;
  (void)thread;
  for (int64_t j = i * CHUNK; j < min64((i + 1) * CHUNK, p->columns); j++)
    p->w[j] = p->w[j] * p->kept - p->lr * (p->g[j] * p->scale / __builtin_sqrtf(p->row[j]));
}

// The learning rate and the decay of an update, from the sizes of the update and of the weight (n).
static void adafactor_rate(Adafactor *job, int64_t chunks, int64_t n, float lr, float eps2, float threshold, float decay,
                           int64_t scaled) {
  double updates = 0.0, weights = 0.0;
  for (int64_t i = 0; i < chunks; i++) {
    updates += job->partial[2 * i];
    weights += job->partial[2 * i + 1];
  }
  float size = __builtin_sqrtf((float)(weights / n)), above = __builtin_sqrtf((float)(updates / n)) / threshold;
  if (scaled) lr *= size > eps2 ? size : eps2;
  job->kept = 1.0f - lr * decay;
  job->lr = lr / (above > 1.0f ? above : 1.0f);
}

// Adafactor's step on z matrices w (rows, columns) with moments of rows and columns, in place; scalars = learning rate,
// how much of the moments is kept, how much is new.
void adafactor(float *w, float *row, float *column, const float *g, const float *scalars, const float *scale, int64_t z,
               int64_t rows, int64_t columns, float eps1, float eps2, float threshold, float decay, int64_t scaled) {
  int64_t chunks = ceil_div(z * rows, ROWS);
  float *kept = scratch(SHARED, PARTIAL, 4 * chunks + z);
  if (!kept) return;
  Adafactor job = {.w = w, .row = row, .column = column, .g = g, .partial = (double *)kept, .inverse = kept + 4 * chunks,
                   .z = z, .rows = rows, .columns = columns, .old = scalars[1], .new = scalars[2], .eps1 = eps1,
                   .scale = *scale};
  parallel_for(adafactor_row_moments, &job, chunks);
  parallel_for(adafactor_column_moments, &job, z * ceil_div(columns, STRIPE));
  for (int64_t i = 0; i < z; i++) {
    double sum = 0.0;
    for (int64_t r = 0; r < rows; r++) sum += row[i * rows + r];
    job.inverse[i] = (float)(rows / sum);
  }
  parallel_for(adafactor_sizes, &job, chunks);
  adafactor_rate(&job, chunks, z * rows * columns, scalars[0], eps2, threshold, decay, scaled);
  parallel_for(adafactor_rows, &job, chunks);
}

// The same of a vector w (n), each of whose numbers has a moment of its own.
void adafactor_vector(float *w, float *moment, const float *g, const float *scalars, const float *scale, int64_t n,
                      float eps1, float eps2, float threshold, float decay, int64_t scaled) {
  int64_t chunks = ceil_div(n, CHUNK);
  float *kept = scratch(SHARED, PARTIAL, 4 * chunks);
  if (!kept) return;
  Adafactor job = {.w = w, .row = moment, .g = g, .partial = (double *)kept, .z = 1, .rows = 1, .columns = n,
                   .old = scalars[1], .new = scalars[2], .eps1 = eps1, .scale = *scale};
  parallel_for(adafactor_vector_sizes, &job, chunks);
  adafactor_rate(&job, chunks, n, scalars[0], eps2, threshold, decay, scaled);
  parallel_for(adafactor_vector_chunk, &job, chunks);
}

typedef struct {
  float *average;
  const float *w;
  int64_t n;
  float share;
} Average;

static void average_chunk(const void *job, int64_t i, int thread) {
  const Average p = *(const Average *)job;
  float *restrict average = p.average;
  const float *restrict w = p.w;
  (void)thread;
  for (int64_t j = i * CHUNK; j < min64((i + 1) * CHUNK, p.n); j++) average[j] += p.share * (w[j] - average[j]);
}

// average (n) += share · (w - average)
void average(float *average, const float *w, const float *share, int64_t n) {
  Average job = {average, w, n, *share};
  parallel_for(average_chunk, &job, ceil_div(n, CHUNK));
}
