// Matrix products of float32: C (m, n) = A (m, k) · B (k, n), each operand at any two strides, one of them 1.
//
// Panels of A and B are copied side by side in memory, then multiplied tile by tile in registers (Goto & van de Geijn
// 2008, "Anatomy of high-performance matrix multiplication"). numpy's OpenBLAS reaches 60 % of this on AVX-512.
#if defined(__AVX512F__)
enum { LANES = 16, MR = 14 };
#elif defined(__AVX__)
enum { LANES = 8, MR = 6 };
#else
enum { LANES = 4, MR = 12 };
#endif
enum { NR = 2 * LANES, KC = 384, NC = NR * 20, BAND = 8 * MR };
typedef float Lanes __attribute__((vector_size(LANES * 4)));
typedef float Loose __attribute__((vector_size(LANES * 4), aligned(4))); // the same at any address

typedef struct {
  const float *at;
  int64_t row, column; // distance of the next row, of the next column
} Matrix;

static inline Matrix from(Matrix x, int64_t row, int64_t column) {
  return (Matrix){x.at + row * x.row + column * x.column, x.row, x.column};
}

static inline Matrix transposed(Matrix x) { return (Matrix){x.at, x.column, x.row}; }

// Lanes × Lanes numbers become their transpose, by exchanging ever larger blocks.
#define LOW(l, s) ((l) & (s) ? LANES + (l) - (s) : (l))
#define HIGH(l, s) ((l) & (s) ? LANES + (l) : (l) + (s))
#define FOUR(f, l, s) f((l), s), f((l) + 1, s), f((l) + 2, s), f((l) + 3, s)
#if defined(__AVX512F__)
#define ALL(f, s) FOUR(f, 0, s), FOUR(f, 4, s), FOUR(f, 8, s), FOUR(f, 12, s)
#elif defined(__AVX__)
#define ALL(f, s) FOUR(f, 0, s), FOUR(f, 4, s)
#else
#define ALL(f, s) FOUR(f, 0, s)
#endif
#define EXCHANGE(s)                                                                                                    \
  for (int i = 0; i < LANES; i++)                                                                                      \
    if (!(i & (s))) {                                                                                                  \
      Lanes low = __builtin_shufflevector(x[i], x[i + (s)], ALL(LOW, s));                                              \
      x[i + (s)] = __builtin_shufflevector(x[i], x[i + (s)], ALL(HIGH, s));                                            \
      x[i] = low;                                                                                                      \
    }
static inline __attribute__((always_inline)) void transpose_lanes(Lanes *x) {
  EXCHANGE(1)
  EXCHANGE(2)
#if defined(__AVX__)
  EXCHANGE(4)
#endif
#if defined(__AVX512F__)
  EXCHANGE(8)
#endif
}

// Packs `width` rows (of at most `panel`) of x, k columns: out[column * panel + row] = factor · x, missing rows 0.
// Writes up to LANES numbers beyond the panel's end. Columns that lie far apart are asked for AHEAD of their turn: no
// processor guesses them.
enum { AHEAD = 16 };
static inline __attribute__((always_inline)) void pack(float *out, Matrix x, int64_t width, int64_t k, int64_t panel,
                                                       float factor) {
  if (x.row == 1) {
    for (int64_t j = 0; j < k; j++) {
      const float *from = x.at + j * x.column;
      __builtin_prefetch(from + AHEAD * x.column);
      __builtin_prefetch(from + AHEAD * x.column + panel - 1);
      if (width == panel)
        for (int64_t i = 0; i < panel; i++) out[j * panel + i] = factor * from[i];
      else
        for (int64_t i = 0; i < panel; i++) out[j * panel + i] = i < width ? factor * from[i] : 0.0f;
    }
    return;
  }
  int64_t body = x.column == 1 ? k / LANES * LANES : 0;
  for (int64_t j = 0; j < body; j += LANES)
    for (int64_t group = 0; group < panel; group += LANES) {
      Lanes block[LANES];
      for (int i = 0; i < LANES; i++)
        block[i] = group + i < width ? factor * *(const Loose *)(x.at + (group + i) * x.row + j) : (Lanes){0};
      transpose_lanes(block);
      for (int i = 0; i < LANES; i++) *(Loose *)(out + (j + i) * panel + group) = block[i];
    }
  for (int64_t j = body; j < k; j++)
    for (int64_t i = 0; i < panel; i++) out[j * panel + i] = i < width ? factor * x.at[i * x.row + j * x.column] : 0.0f;
}

// One column of A by one row of B, added to sums that stay in registers: a name of their own, which nothing else sees,
// keeps them there.
#define ADD_OUTER(b, a_of_row)                                                                                         \
  {                                                                                                                    \
    Lanes b0 = *(const Lanes *)(b), b1 = *(const Lanes *)((b) + LANES);                                                \
    _Pragma("clang loop unroll(full)") for (int i = 0; i < MR; i++) {                                                  \
      float x = a_of_row;                                                                                              \
      own[i][0] += x * b0;                                                                                             \
      own[i][1] += x * b1;                                                                                             \
    }                                                                                                                  \
  }

// sums (MR, NR) = a packed panel of A (MR, k) · a packed panel of B
static inline __attribute__((always_inline)) void in_registers(Lanes (*sums)[2], int64_t k, const float *a, const float *b) {
  Lanes own[MR][2] = {{{0}}};
  for (int64_t p = 0; p < k; p++) ADD_OUTER(b + p * NR, a[p * MR + i])
  memcpy(sums, own, sizeof own);
}

// The same for MR rows of A where they lie, while k · step numbers from `next` on come closer. Every third row has a
// pointer that the compiler may not compute: addresses as it makes them take a fifth of the multiplications' turns.
enum { THIRDS = (MR + 2) / 3 };
static inline __attribute__((always_inline)) void rows_in_registers(Lanes (*sums)[2], int64_t k, const float *a, int64_t row,
                                                                    const float *b, const float *next, int64_t step) {
  const float *third[THIRDS];
  Lanes own[MR][2] = {{{0}}};
  for (int i = 0; i < THIRDS; i++) third[i] = a + i * 3 * row;
  for (int64_t p = 0; p + 2 <= k; p += 2, next += 2 * step, b += 2 * NR) {
    __builtin_prefetch(next, 0, 2);
    for (int i = 0; i < THIRDS; i++) __asm__("" : "+r"(third[i]));
    ADD_OUTER(b, third[i / 3][i % 3 * row])
    ADD_OUTER(b + NR, third[i / 3][i % 3 * row + 1])
    for (int i = 0; i < THIRDS; i++) third[i] += 2;
  }
  if (k % 2) ADD_OUTER(b, third[i / 3][i % 3 * row])
  memcpy(sums, own, sizeof own);
}

// MR rows of A for a tile, `row` apart; 0 in a packed panel
typedef struct {
  const float *at;
  int64_t row;
} Rows;

// Rows that can be read where they lie are, if `factor` is 1; `copy` (MR · k) takes the others: columns side by side, rows
// that are missing, or at distances at which they push one another out of the cache.
static inline Rows rows_of(float *copy, Matrix a, int64_t rows, int64_t k, float factor) {
  if (a.column == 1 && rows == MR && a.row % 1024 && factor == 1.0f) return (Rows){a.at, a.row};
  pack(copy, a, rows, k, MR, factor);
  return (Rows){copy, 0};
}

// c (rows ≤ MR, columns ≤ NR) = or += rows of A by a packed panel, plus bias (NR) where given
static inline void tile(int64_t k, Rows a, const float *b, float *c, int64_t stride, int64_t rows,
                        int64_t columns, int accumulate, const float *bias) {
  Lanes sums[MR][2], zero = {0};
  if (a.row) rows_in_registers(sums, k, a.at, a.row, b, a.at, 0);
  else in_registers(sums, k, a.at, b);
  if (rows == MR && columns == NR) {
    Lanes add0 = bias ? *(const Loose *)bias : zero, add1 = bias ? *(const Loose *)(bias + LANES) : zero;
#pragma clang loop unroll(full)
    for (int i = 0; i < MR; i++) {
      Loose *to = (Loose *)(c + i * stride);
      Lanes old0 = accumulate ? to[0] : add0, old1 = accumulate ? to[1] : add1;
      to[0] = sums[i][0] + old0;
      to[1] = sums[i][1] + old1;
    }
    return;
  }
  float whole[MR][NR];
  memcpy(whole, sums, sizeof whole);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j++) {
      float old = accumulate ? c[i * stride + j] : bias ? bias[j] : 0.0f;
      c[i * stride + j] = whole[i][j] + old;
    }
}

typedef struct {
  float *c;
  int64_t stride;
  Matrix a, b;
  int64_t m, n, k;
  int accumulate;
  const float *bias;
  int64_t rows, columns; // of C for one iteration
  float *packed;         // of B; of A where B's columns are a prompt's weights
} Product;

static void pack_columns(const void *job, int64_t i, int thread) {
  const Product *p = job;
  (void)thread;
  pack(p->packed + i * NR * p->k, from(transposed(p->b), i * NR, 0), least(NR, p->n - i * NR), p->k, NR, 1.0f);
}

static void multiply_block(const void *job, int64_t i, int thread) {
  const Product *p = job;
  int64_t across = parts(p->n, p->columns), top = i / across * p->rows, left = i % across * p->columns;
  int64_t bottom = least(top + p->rows, p->m), right = least(left + p->columns, p->n);
  float *copy = scratch(thread, COPIED_ROWS, MR * KC);
  if (!copy) return;
  for (int64_t r = top; r < bottom; r += MR) {
    int64_t rows = least(MR, bottom - r);
    Rows a = rows_of(copy, from(p->a, r, 0), rows, p->k, 1.0f);
    for (int64_t c = left; c < right; c += NR)
      tile(p->k, a, p->packed + c * p->k, p->c + r * p->stride + c, p->stride, rows, least(NR, right - c),
           p->accumulate, p->bias ? p->bias + c : 0);
  }
}

// y (m, n) = a (m, k) · wᵀ for few rows: each row of w (n, k) is read once. Weights are asked for LONG numbers ahead, since
// what a processor guesses by itself leaves a fifth of the memory's speed unused.
enum { FEW = 4, LONG = 4096 };
static void few_rows(const void *job, int64_t i, int thread) {
  const Product *p = job;
  (void)thread;
  int64_t end = least((i + 1) * p->columns, p->n), body = p->k / LANES * LANES;
  for (int64_t j = i * p->columns; j < end; j++) {
    const float *w = p->b.at + j * p->b.column;
    for (int64_t r = 0; r < p->m; r++) {
      const float *x = p->a.at + r * p->a.row;
      Lanes sums[4] = {{0}};
      int64_t t = 0;
      for (; t + 4 * LANES <= body; t += 4 * LANES)
        for (int u = 0; u < 4; u++) {
          __builtin_prefetch(w + t + u * LANES + LONG, 0, 2);
          sums[u] += *(const Loose *)(x + t + u * LANES) * *(const Loose *)(w + t + u * LANES);
        }
      for (; t < body; t += LANES) sums[0] += *(const Loose *)(x + t) * *(const Loose *)(w + t);
      sums[0] += sums[1] + (sums[2] + sums[3]);
      float sum = 0.0f;
      for (int u = 0; u < LANES; u++) sum += sums[0][u];
      for (; t < p->k; t++) sum += x[t] * w[t];
      p->c[r * p->stride + j] = sum + (p->accumulate ? p->c[r * p->stride + j] : p->bias ? p->bias[j] : 0.0f);
    }
  }
}

// y (m, n) = a (m, k) · wᵀ for the rows of a prompt. The weights come from far away and are read once, where they lie:
// their rows take the place of A's, and the lanes are rows of a. An iteration's results are turned together and written in
// whole lines, which are asked for meanwhile: waiting for them took up to a fifth of the time.
enum { PROMPT = 256, TURNED = 4 * MR };

static void pack_rows(const void *job, int64_t i, int thread) {
  const Product *p = job;
  (void)thread;
  pack(p->packed + i * NR * p->k, from(p->a, i * NR, 0), least(NR, p->m - i * NR), p->k, NR, 1.0f);
}

// c (rows, columns) = the transpose of x (columns, rows), whose rows are `wide` apart, plus bias (columns) where given
static void turn(float *c, int64_t stride, const float *x, int64_t wide, int64_t rows, int64_t columns, const float *bias) {
  for (int64_t top = 0; top < rows; top += LANES)
    for (int64_t left = 0; left < columns; left += LANES) {
      int64_t across = least(LANES, columns - left);
      Lanes block[LANES], add = {0};
      for (int64_t i = 0; i < LANES; i++)
        block[i] = i < across ? *(const Lanes *)(x + (left + i) * wide + top) : (Lanes){0};
      transpose_lanes(block);
      if (bias) memcpy(&add, bias + left, across * sizeof(float));
      for (int64_t i = 0; i < least(LANES, rows - top); i++) {
        float *to = c + (top + i) * stride + left;
        block[i] += add;
        if (across == LANES) *(Loose *)to = block[i];
        else memcpy(to, &block[i], across * sizeof(float));
      }
    }
}

static void multiply_weights(const void *job, int64_t i, int thread) {
  const Product *p = job;
  int64_t left = i * p->columns, columns = least(p->columns, p->n - left), wide = up(p->m, NR);
  int64_t step = parts(MR, wide / NR), share = parts(p->m, parts(columns, MR) * (wide / NR)), near = 0;
  float *to_turn = scratch(thread, TO_TURN, TURNED * PROMPT), *copy = scratch(thread, COPIED_ROWS, MR * p->k);
  if (!to_turn || !copy) return;
  for (int64_t at = 0; at < columns; at += MR) {
    Matrix w = from(transposed(p->b), left + at, 0);
    Rows rows = rows_of(copy, w, least(MR, columns - at), p->k, 1.0f);
    for (int64_t top = 0; top < p->m; top += NR) {
      for (int64_t end = least(near + share, p->m); near < end; near++) // a tile's share of y comes closer
        for (int64_t j = 0; j < columns; j += LANES) __builtin_prefetch(p->c + near * p->stride + left + j, 1, 2);
      Lanes sums[MR][2];
      const float *x = p->packed + top * p->k, *next = w.at + MR * w.row + top / NR * p->k * step;
      if (rows.row) rows_in_registers(sums, p->k, rows.at, rows.row, x, next, step);
      else in_registers(sums, p->k, rows.at, x);
      for (int j = 0; j < MR; j++) memcpy(to_turn + (at + j) * wide + top, sums[j], sizeof sums[j]);
    }
  }
  turn(p->c + left, p->stride, to_turn, wide, p->m, columns, p->bias ? p->bias + left : 0);
}

// Columns of y for an iteration: a multiple of MR, so that each thread has two iterations if there are columns enough
static int64_t turned_together(int64_t n) {
  int64_t tiles = parts(n, MR), iterations = most(parts(n, TURNED), least(tiles, 2 * pool.threads));
  return parts(tiles, iterations) * MR;
}

// A BLAS's sgemm that computes the bands of a product instead, where this compiler's lanes are not its match.
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
static int64_t band(int64_t n) { return least(THICK, most(THIN, up(parts(n, BANDS), 16))); }

static void blas_band(const void *job, int64_t i, int thread) {
  const Product *p = job;
  int64_t across = parts(p->n, p->columns), top = i / across * p->rows, left = i % across * p->columns;
  int64_t m = least(p->rows, p->m - top), n = least(p->columns, p->n - left);
  Matrix a = from(p->a, top, 0), b = from(p->b, 0, left);
  int ta = a.column == 1 ? 111 : 112, tb = b.column == 1 ? 111 : 112;
  float *c = p->c + top * p->stride + left;
  (void)thread;
  for (int64_t r = 0; r < m && p->bias; r++) memcpy(c + r * p->stride, p->bias + left, n * sizeof(float));
  // A row or column that stands alone has any stride, while a BLAS wants none below its length.
  int64_t lda = ta == 111 ? most(p->k, a.row) : most(m, a.column), ldb = tb == 111 ? most(n, b.row) : most(p->k, b.column);
  sgemm(ta, tb, m, n, p->k, a.at, lda, b.at, ldb, p->accumulate || p->bias ? 1.0f : 0.0f, c, p->stride);
}

// Products of the same few rows by up to three weights where they lie: one job, so that the rows are packed once and the
// threads meet once.
typedef struct {
  Product each[3];
  int64_t iterations[3];
  Task task;
} Joined;

static void one_of(const void *job, int64_t i, int thread) {
  const Joined *p = job;
  int j = 0;
  while (i >= p->iterations[j]) i -= p->iterations[j++];
  p->task(&p->each[j], i, thread);
}

// Does them (or fails), or returns 0 where they are no such products.
static int by_weights(const Product *each, int count) {
  Product rows = each[0];
  int few = rows.m <= FEW;
  if (rows.a.column != 1 || rows.b.row != 1) return 0;
  if (!few && (rows.m > PROMPT || rows.accumulate || blas.sgemm)) return 0;
  if (!few) {
    rows.packed = scratch(SHARED, PACKED_ROWS, up(rows.m, NR) * rows.k);
    if (!rows.packed) return 1;
    parallel(pack_rows, &rows, parts(rows.m, NR));
  }
  Joined all = {.task = few ? few_rows : multiply_weights};
  int64_t total = 0;
  for (int j = 0; j < count; j++) {
    all.each[j] = each[j];
    all.each[j].packed = rows.packed;
    all.each[j].columns = few ? most(1, least(64, parts(each[j].n, 8))) : turned_together(each[j].n);
    total += all.iterations[j] = parts(each[j].n, all.each[j].columns);
  }
  parallel(one_of, &all, total);
  return 1;
}

// C = A · B, or C += A · B; bias (n) is added to every row where given
static void multiply(float *c, int64_t stride, Matrix a, Matrix b, int64_t m, int64_t n, int64_t k, int accumulate,
                     const float *bias) {
  Product one = {c, stride, a, b, m, n, k, accumulate, bias, 0, 0, 0};
  if (by_weights(&one, 1)) return;
  if (blas.sgemm) {
    Product all = {c, stride, a, b, m, n, k, accumulate, accumulate ? 0 : bias, m, n, 0};
    if (!blas.whole && m >= n) all.rows = band(m);
    else if (!blas.whole) all.columns = band(n);
    parallel(blas_band, &all, parts(m, all.rows) * parts(n, all.columns));
    return;
  }
  int64_t steps = most(1, parts(k, KC)), depth = parts(k, steps);
  float *packed = scratch(SHARED, PACKED, NC * KC);
  if (!packed) return;
  for (int64_t left = 0; left < n; left += NC) {
    int64_t width = least(NC, n - left), panels = parts(width, NR);
    int64_t rows = least(BAND, parts(parts(m, 8), MR) * MR), down = parts(m, rows);
    int64_t across = least(panels, parts(4 * pool.threads, down)); // whole tiles, so that no bits follow the threads
    for (int64_t step = 0, start = 0; step < steps; step++, start += depth) {
      int64_t deep = most(0, least(depth, k - start));
      Product part = {c + left, stride, from(a, 0, start), from(b, start, left), m, width, deep,
                     accumulate || step, bias ? bias + left : 0, rows, parts(panels, across) * NR, packed};
      parallel(pack_columns, &part, panels);
      parallel(multiply_block, &part, down * parts(width, part.columns));
    }
  }
}

int64_t lanes(void) { return LANES; }

// c (z, m, n) = op(a) · op(b) one after another, where op swaps the axes of (m, k) or (k, n) if asked
void product(float *c, const float *a, const float *b, int64_t z, int64_t m, int64_t n, int64_t k, int64_t swap_a,
             int64_t swap_b) {
  for (int64_t i = 0; i < z; i++) {
    Matrix x = {a + i * m * k, swap_a ? 1 : k, swap_a ? m : 1}, y = {b + i * k * n, swap_b ? 1 : n, swap_b ? k : 1};
    multiply(c + i * m * n, n, x, y, m, n, k, 0, 0);
  }
}
