// Matrix products of float32, and the tiles that they are made of.
#pragma once
#include "pool.h"

// A tile is MR rows of NR columns: as many sums as registers hold beside a row of B and a number of A. Panels are KC deep,
// so that one of B and the rows of a tile lie in the first cache; up to NC columns of B are packed at once.
#if defined(__AVX512F__)
enum { LANES = 16, MR = 14, KC = 384 };
#elif defined(__AVX__)
enum { LANES = 8, MR = 6, KC = 256 };
#elif defined(__aarch64__)
enum { LANES = 4, MR = 12, KC = 256 };
#else // SSE's multiplications overwrite an operand, so that they need registers too
enum { LANES = 4, MR = 4, KC = 256 };
#endif
enum { NR = 2 * LANES, NC = 640, BLOCK_ROWS = 8 * MR };
typedef float Lanes __attribute__((vector_size(LANES * 4)));
typedef float Loose __attribute__((vector_size(LANES * 4), aligned(4))); // the same at any address

typedef struct {
  const float *at;
  int64_t row, column; // distance of the next row, of the next column
} Matrix;

static inline Matrix submatrix(Matrix x, int64_t row, int64_t column) {
  return (Matrix){x.at + row * x.row + column * x.column, x.row, x.column};
}

static inline Matrix transposed(Matrix x) { return (Matrix){x.at, x.column, x.row}; }

// Transposes LANES × LANES elements by exchanging ever larger blocks.
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
// Writes up to LANES elements beyond the panel's end. Columns that lie far apart are prefetched, AHEAD of them: hardware
// prefetchers do not follow such strides.
enum { AHEAD = 16 };
static inline __attribute__((always_inline)) void pack(float *out, Matrix x, int64_t width, int64_t k, int64_t panel,
                                                       float factor) {
  if (x.row == 1) {
    // Whole lanes, where they reach no further than into the next column, which the last one has not.
    int64_t lanes = round_up(panel, LANES), whole = width == panel && lanes - panel <= x.column ? k - 1 : 0;
    for (int64_t j = 0; j < k; j++) {
      const float *from = x.at + j * x.column;
      __builtin_prefetch(from + AHEAD * x.column);
      __builtin_prefetch(from + AHEAD * x.column + panel - 1);
      if (j < whole)
        for (int64_t i = 0; i < lanes; i += LANES) *(Loose *)(out + j * panel + i) = factor * *(const Loose *)(from + i);
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
static inline __attribute__((always_inline)) void tile_in_registers(Lanes (*sums)[2], int64_t k, const float *a, const float *b) {
  Lanes own[MR][2] = {{{0}}};
  for (int64_t p = 0; p < k; p++) ADD_OUTER(b + p * NR, a[p * MR + i])
  memcpy(sums, own, sizeof own);
}

// The same for MR rows of A where they lie, while k · step elements from `next` on are prefetched. Every third row has
// a pointer that the compiler may not recompute: its own addressing costs a fifth of the multiplications' issue slots.
enum { THIRDS = (MR + 2) / 3 };
static inline __attribute__((always_inline)) void tile_of_rows(Lanes (*sums)[2], int64_t k, const float *a, int64_t row,
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
// that are missing, or at strides at which they evict one another from the cache.
static inline Rows rows_of(float *copy, Matrix a, int64_t rows, int64_t k, float factor) {
  if (a.column == 1 && rows == MR && a.row % 1024 && factor == 1.0f) return (Rows){a.at, a.row};
  pack(copy, a, rows, k, MR, factor);
  return (Rows){copy, 0};
}

// c (rows ≤ MR, columns ≤ NR) = or += rows of A by a packed panel, plus bias (NR) where given
static inline void gemm_tile(int64_t k, Rows a, const float *b, float *c, int64_t stride, int64_t rows,
                        int64_t columns, int accumulate, const float *bias) {
  Lanes sums[MR][2], zero = {0};
  if (a.row) tile_of_rows(sums, k, a.at, a.row, b, a.at, 0);
  else tile_in_registers(sums, k, a.at, b);
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
  const char *end, *then; // of an iteration over weights that are read once: where they end, what is read after them
  int64_t type;          // of B's numbers, where it is weights that are read where they lie (halves.h)
} Gemm;

// C = A · B, or C += A · B; bias (n) is added to every row where given
INTERNAL void gemm(float *c, int64_t stride, Matrix a, Matrix b, int64_t m, int64_t n, int64_t k, int accumulate,
                   const float *bias);

// Up to three products of the same few rows by weights where they lie, as one job, so that the rows are packed once and
// the threads meet once. Does them (or fails), or returns 0 where they are no such products.
INTERNAL int gemm_weights(Gemm *each, int count);

// The same products for up to PROMPT_ROWS rows, each sum over all of k in an order that no other row changes.
enum { PROMPT_ROWS = 256 };
INTERNAL void gemm_prompt(Gemm *each, int count);

// Up to three products as one job: `task` computes `columns` columns of one in an iteration.
INTERNAL void gemm_joined(const Gemm *each, int count, Task task);
static inline int64_t gemv_columns(int64_t n) { return max64(1, min64(64, ceil_div(n, 8))); }

// Whether a BLAS of the process multiplies, instead of these tiles
INTERNAL int gemm_by_blas(void);

// How far ahead weights that are read once are prefetched, in bytes
enum { PREFETCHED = 16 << 10 };

// What to prefetch while the weights at `w` are read
static inline const char *ahead_of(const Gemm *p, const char *w) {
  int64_t past = PREFETCHED - (p->end - w); // beyond the iteration
  return past < 0 || !p->then ? w + PREFETCHED : p->then + past;
}
