// Matrix products of float32: C (m, n) = A (m, k) · B (k, n), each operand at any two strides, one of them 1.
//
// Panels of A and B are copied side by side in memory, then multiplied tile by tile in registers (Goto & van de Geijn
// 2008, "Anatomy of high-performance matrix multiplication"). numpy's OpenBLAS reaches
// 60 % of this on AVX-512 and 90 % on AVX2 and SSE.
#include "ahead.h"
#include "gemm.h"
#include "halves.h"

static void pack_columns(const void *job, int64_t i, int thread) {
  const Gemm *p = job;
  (void)thread;
  pack(p->packed + i * NR * p->k, submatrix(transposed(p->b), i * NR, 0), min64(NR, p->n - i * NR), p->k, NR, 1.0f);
}

// Strips of MR rows of A, rows top … bottom - 1, packed if they have to be. Columns far apart are packed a few at a time for
// all strips, which share their cache lines.
static void strips_of(Rows *strips, float *copy, const Gemm *p, int64_t top, int64_t bottom) {
  if (p->a.column == 1) {
    for (int64_t r = top; r < bottom; r += MR, copy += MR * p->k)
      *strips++ = rows_of(copy, submatrix(p->a, r, 0), min64(MR, bottom - r), p->k, 1.0f);
    return;
  }
  for (int64_t j = 0; j < p->k; j += AHEAD)
    for (int64_t r = top; r < bottom; r += MR)
      pack(copy + (r - top) * p->k + j * MR, submatrix(p->a, r, j), min64(MR, bottom - r), min64(AHEAD, p->k - j), MR, 1.0f);
  for (int64_t r = top; r < bottom; r += MR, copy += MR * p->k) *strips++ = (Rows){copy, 0};
}

static void gemm_block(const void *job, int64_t i, int thread) {
  const Gemm *p = job;
  int64_t across = ceil_div(p->n, p->columns), top = i / across * p->rows, left = i % across * p->columns;
  int64_t bottom = min64(top + p->rows, p->m), right = min64(left + p->columns, p->n);
  float *copy = scratch(thread, COPIED_ROWS, BLOCK_ROWS * KC);
  Rows strips[BLOCK_ROWS / MR];
  if (!copy) return;
  strips_of(strips, copy, p, top, bottom);
  for (int64_t c = left; c < right; c += NR)
    for (int64_t r = top; r < bottom; r += MR)
      gemm_tile(p->k, strips[(r - top) / MR], p->packed + c * p->k, p->c + r * p->stride + c, p->stride,
           min64(MR, bottom - r), min64(NR, right - c), p->accumulate, p->bias ? p->bias + c : 0);
}

// y (m, n) = a (m, k) · wᵀ for few rows: each row of w (n, k) is read once. Weights are prefetched, PREFETCHED bytes
// ahead, since hardware prefetching alone leaves a fifth of the memory bandwidth unused.
enum { GEMV_ROWS = 4 };
static inline __attribute__((always_inline)) void gemv_of(const Gemm *p, int64_t i, const int type) {
  const int64_t size = number_bytes(type);
  int64_t end = min64((i + 1) * p->columns, p->n), body = p->k / LANES * LANES;
  for (int64_t j = i * p->columns; j < end; j++) {
    const char *w = (const char *)p->b.at + j * p->b.column * size;
    for (int64_t r = 0; r < p->m; r++) {
      const float *x = p->a.at + r * p->a.row;
      const char *ahead = ahead_of(p, w);
      Lanes sums[4] = {{0}};
      int64_t t = 0;
      for (; t + 4 * LANES <= body; t += 4 * LANES)
        for (int u = 0; u < 4; u++) {
          __builtin_prefetch(ahead + (t + u * LANES) * size, 0, 2);
          sums[u] += *(const Loose *)(x + t + u * LANES) * load_lanes(type, w + (t + u * LANES) * size);
        }
      for (; t < body; t += LANES) sums[0] += *(const Loose *)(x + t) * load_lanes(type, w + t * size);
      sums[0] += sums[1] + (sums[2] + sums[3]);
      float sum = 0.0f;
      for (int u = 0; u < LANES; u++) sum += sums[0][u];
      for (; t < p->k; t++) sum += x[t] * load_number(type, w + t * size);
      p->c[r * p->stride + j] = sum + (p->accumulate ? p->c[r * p->stride + j] : p->bias ? p->bias[j] : 0.0f);
    }
  }
}

static void gemv_batched(const void *job, int64_t i, int thread) {
  const Gemm *p = job;
  (void)thread;
  if (p->type == HALF_16) gemv_of(p, i, HALF_16);
  else if (p->type == BFLOAT_16) gemv_of(p, i, BFLOAT_16);
  else gemv_of(p, i, FLOAT_32);
}

// y (m, n) = a (m, k) · wᵀ for the rows of a prompt. The weights come from main memory and are read once, in place:
// their rows take the place of A's, and the lanes are rows of a. An iteration's results are transposed together and written in
// whole lines, which are prefetched: waiting for them took up to a fifth of the time. Weights of 16 bits are widened a
// tile's rows at a time.
enum { COLUMNS = 4 * MR };

static void pack_rows(const void *job, int64_t i, int thread) {
  const Gemm *p = job;
  (void)thread;
  pack(p->packed + i * NR * p->k, submatrix(p->a, i * NR, 0), min64(NR, p->m - i * NR), p->k, NR, 1.0f);
}

// c (rows, columns) = the transpose of x (columns, rows), whose rows are `wide` apart, plus bias (columns) where given
static void transpose_into(float *c, int64_t stride, const float *x, int64_t wide, int64_t rows, int64_t columns, const float *bias) {
  for (int64_t top = 0; top < rows; top += LANES)
    for (int64_t left = 0; left < columns; left += LANES) {
      int64_t across = min64(LANES, columns - left);
      Lanes block[LANES], add = {0};
      for (int64_t i = 0; i < LANES; i++)
        block[i] = i < across ? *(const Lanes *)(x + (left + i) * wide + top) : (Lanes){0};
      transpose_lanes(block);
      if (bias) memcpy(&add, bias + left, across * sizeof(float));
      for (int64_t i = 0; i < min64(LANES, rows - top); i++) {
        float *to = c + (top + i) * stride + left;
        block[i] += add;
        if (across == LANES) *(Loose *)to = block[i];
        else memcpy(to, &block[i], across * sizeof(float));
      }
    }
}

static void gemm_weights_columns(const void *job, int64_t i, int thread) {
  const Gemm *p = job;
  int64_t left = i * p->columns, columns = min64(p->columns, p->n - left), wide = round_up(p->m, NR);
  int64_t size = number_bytes(p->type), step = ceil_div(MR * size, 4 * (wide / NR)), share = ceil_div(p->m, ceil_div(columns, MR) * (wide / NR)), near = 0;
  float *untransposed = scratch(thread, UNTRANSPOSED, COLUMNS * PROMPT_ROWS), *copy = scratch(thread, COPIED_ROWS, MR * p->k);
  int64_t apart = p->k % 1024 ? p->k : p->k + LANES; // as rows_of wants it
  float *widened = p->type == FLOAT_32 ? copy : scratch(thread, WIDENED, MR * apart);
  if (!untransposed || !copy || !widened) return;
  for (int64_t at = 0; at < columns; at += MR) {
    const char *lying = (const char *)p->b.at + (left + at) * p->b.column * size;
    Matrix w = {(const float *)lying, p->b.column, 1};
    for (int64_t r = 0; p->type != FLOAT_32 && r < min64(MR, columns - at); r++)
      widen(widened + r * apart, p->type, lying + r * p->b.column * size, p->k);
    if (p->type != FLOAT_32) w = (Matrix){widened, apart, 1};
    Rows rows = rows_of(copy, w, min64(MR, columns - at), p->k, 1.0f);
    for (int64_t top = 0; top < p->m; top += NR) {
      for (int64_t end = min64(near + share, p->m); near < end; near++) // prefetches a tile's part of y
        for (int64_t j = 0; j < columns; j += LANES) __builtin_prefetch(p->c + near * p->stride + left + j, 1, 2);
      Lanes sums[MR][2];
      const float *x = p->packed + top * p->k;
      const float *next = (const float *)(lying + MR * p->b.column * size) + top / NR * p->k * step;
      if (rows.row) tile_of_rows(sums, p->k, rows.at, rows.row, x, next, step);
      else tile_in_registers(sums, p->k, rows.at, x);
      for (int j = 0; j < MR; j++) memcpy(untransposed + (at + j) * wide + top, sums[j], sizeof sums[j]);
    }
  }
  transpose_into(p->c + left, p->stride, untransposed, wide, p->m, columns, p->bias ? p->bias + left : 0);
}

// Columns of y for an iteration: a multiple of MR, so that each thread has two iterations if there are columns enough
static int64_t columns_together(int64_t n) {
  int64_t tiles = ceil_div(n, MR), iterations = max64(ceil_div(n, COLUMNS), min64(tiles, 2 * thread_count()));
  return ceil_div(tiles, iterations) * MR;
}

// A BLAS's sgemm that computes the bands of a product instead, where these tiles are not known to be its match.
static struct {
  void *sgemm;
  int wide, whole; // whether its integers have 64 bits; whether it has threads of its own that are to be used
} blas;

void use_blas(void *sgemm, int64_t int_bits, int64_t whole) {
  blas.sgemm = sgemm;
  blas.wide = int_bits == 64;
  blas.whole = (int)whole;
}

#define SGEMM(integer)                                                                                                 \
  ((void (*)(int, int, int, integer, integer, integer, float, const float *, integer, const float *, integer, float,   \
             float *, integer))blas.sgemm)(101, ta, tb, m, n, k, 1.0f, a, lda, b, ldb, beta, c, ldc)
static void sgemm(int ta, int tb, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                  int64_t ldb, float beta, float *c, int64_t ldc) {
  if (blas.wide)
    SGEMM(int64_t);
  else
    SGEMM(int32_t);
}

// Rows or columns of a band: so many that there are 16 bands, within limits. By the size alone, since a BLAS sums up in an
// order that follows the sizes it is given: bands that followed the threads would give each number of threads other bits.
enum { BANDS = 16, THIN = 32, THICK = 128 };
static int64_t band(int64_t n) { return min64(THICK, max64(THIN, round_up(ceil_div(n, BANDS), 16))); }

static void blas_band(const void *job, int64_t i, int thread) {
  const Gemm *p = job;
  int64_t across = ceil_div(p->n, p->columns), top = i / across * p->rows, left = i % across * p->columns;
  int64_t m = min64(p->rows, p->m - top), n = min64(p->columns, p->n - left);
  Matrix a = submatrix(p->a, top, 0), b = submatrix(p->b, 0, left);
  int ta = a.column == 1 ? 111 : 112, tb = b.column == 1 ? 111 : 112;
  float *c = p->c + top * p->stride + left;
  (void)thread;
  for (int64_t r = 0; r < m && p->bias; r++) memcpy(c + r * p->stride, p->bias + left, n * sizeof(float));
  // A row or column that stands alone has any stride, while a BLAS wants none below its length.
  int64_t lda = ta == 111 ? max64(p->k, a.row) : max64(m, a.column), ldb = tb == 111 ? max64(n, b.row) : max64(p->k, b.column);
  sgemm(ta, tb, m, n, p->k, a.at, lda, b.at, ldb, p->accumulate || p->bias ? 1.0f : 0.0f, c, p->stride);
}

typedef struct {
  Gemm each[3];
  int64_t iterations[3], total;
  const Weights *next; // what the product after this one reads
  Task task;
} Joined;

static void joined_task(const void *job, int64_t i, int thread) {
  const Joined *p = job;
  int last = i + 1 == range_start(p->total, thread + 1) || i + 1 == p->total, j = 0;
  while (i >= p->iterations[j]) i -= p->iterations[j++];
  Gemm own = p->each[j];
  own.end = (const char *)own.b.at + min64((i + 1) * own.columns, own.n) * own.b.column * number_bytes(own.type);
  own.then = last ? part_begins(p->next, thread) : i + 1 < p->iterations[j] ? own.end : (const char *)p->each[j + 1].b.at;
  p->task(&own, i, thread);
}

void gemm_joined(const Gemm *each, int count, Task task) {
  Joined all = {.task = task};
  Weights read = {0};
  int once = task != gemm_weights_columns; // or a prompt's rows, which keep the cores busy
  for (int j = 0; j < count; j++) {
    all.each[j] = each[j];
    all.total += all.iterations[j] = ceil_div(each[j].n, each[j].columns);
    read.at[j] = once ? (const char *)each[j].b.at : 0;
    read.bytes[j] = each[j].n * each[j].k * number_bytes(each[j].type);
  }
  all.next = product_begins(read);
  parallel_for(joined_task, &all, all.total);
}

void gemm_prompt(Gemm *each, int count) {
  Gemm rows = each[0];
  rows.packed = scratch(SHARED, PACKED_ROWS, round_up(rows.m, NR) * rows.k);
  if (!rows.packed) return;
  parallel_for(pack_rows, &rows, ceil_div(rows.m, NR));
  for (int j = 0; j < count; j++) {
    each[j].packed = rows.packed;
    each[j].columns = columns_together(each[j].n);
  }
  gemm_joined(each, count, gemm_weights_columns);
}

int gemm_weights(Gemm *each, int count) {
  const Gemm *rows = each;
  int few = rows->m <= GEMV_ROWS;
  if (rows->a.column != 1 || rows->b.row != 1) return 0;
  if (!few && (rows->m > PROMPT_ROWS || rows->accumulate || blas.sgemm)) return 0;
  for (int j = 0; j < count; j++) each[j].columns = gemv_columns(each[j].n);
  if (few)
    gemm_joined(each, count, gemv_batched);
  else
    gemm_prompt(each, count);
  return 1;
}

int gemm_by_blas(void) { return blas.sgemm != 0; }

void gemm(float *c, int64_t stride, Matrix a, Matrix b, int64_t m, int64_t n, int64_t k, int accumulate,
          const float *bias) {
  Gemm one = {c, stride, a, b, m, n, k, accumulate, bias, 0, 0, 0, 0, 0, 0};
  if (gemm_weights(&one, 1)) return;
  if (blas.sgemm) {
    Gemm all = {c, stride, a, b, m, n, k, accumulate, accumulate ? 0 : bias, m, n, 0, 0, 0, 0};
    if (!blas.whole && m >= n) all.rows = band(m);
    else if (!blas.whole) all.columns = band(n);
    parallel_for(blas_band, &all, ceil_div(m, all.rows) * ceil_div(n, all.columns));
    return;
  }
  int64_t steps = max64(1, ceil_div(k, KC)), depth = ceil_div(k, steps);
  int64_t together = max64(NR, round_up(ceil_div(n, max64(1, ceil_div(n, NC))), NR));
  float *packed = scratch(SHARED, PACKED, NC * KC);
  if (!packed) return;
  for (int64_t left = 0; left < n; left += together) {
    int64_t width = min64(together, n - left), panels = ceil_div(width, NR);
    int64_t rows = min64(BLOCK_ROWS, ceil_div(ceil_div(m, 8), MR) * MR), down = ceil_div(m, rows);
    int64_t across = min64(panels, ceil_div(4 * thread_count(), down)); // whole tiles, so that no bits follow the threads
    for (int64_t step = 0, start = 0; step < steps; step++, start += depth) {
      int64_t deep = max64(0, min64(depth, k - start));
      Gemm part = {c + left, stride, submatrix(a, 0, start), submatrix(b, start, left), m, width, deep,
                     accumulate || step, bias ? bias + left : 0, rows, ceil_div(panels, across) * NR, packed, 0, 0, 0};
      parallel_for(pack_columns, &part, panels);
      parallel_for(gemm_block, &part, down * ceil_div(width, part.columns));
    }
  }
}

int64_t lanes(void) { return LANES; }
int64_t tile_height(void) { return MR; }

// The instructions that the tiles are made of
const char *instruction_set(void) {
#if defined(__AVX512F__)
  return "AVX-512";
#elif defined(__AVX2__) && defined(__FMA__)
  return "AVX2";
#elif defined(__AVX__)
  return "AVX";
#elif defined(__SSE2__)
  return "SSE";
#elif defined(__ARM_NEON)
  return "NEON";
#else
  return "portable C";
#endif
}

// c (z, m, n) = op(a) · op(b) one after another, where op swaps the axes of (m, k) or (k, n) if asked
void matmul(float *c, const float *a, const float *b, int64_t z, int64_t m, int64_t n, int64_t k, int64_t swap_a,
             int64_t swap_b) {
  for (int64_t i = 0; i < z; i++) {
    Matrix x = {a + i * m * k, swap_a ? 1 : k, swap_a ? m : 1}, y = {b + i * k * n, swap_b ? 1 : n, swap_b ? k : 1};
    gemm(c + i * m * n, n, x, y, m, n, k, 0, 0);
  }
}
