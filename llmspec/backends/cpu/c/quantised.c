// Products of activations by weights that stay quantised (quantised.h has how they lie).
//
// Integers are summed within a block, exactly; blocks are added up one after another in float32, in the same order for one
// row as for many, so that a prompt's rows get what decoding gives them, bit for bit.
#include "ahead.h"
#include "gemm.h"
#include "quantised.h"

// What stands beside the rounded activations of a block: their scale, scale · sum, and the sums of both halves.
typedef struct {
  float scale, scaled_sum;
  int32_t low, high;
} Around;
enum { RECORD = QUANT_BLOCK + sizeof(Around) };

// Rows of a tile. Of each block its activations stand row by row, then what is around them, so that one pointer reaches
// all of them at distances that are known.
#if defined(__AVX512BW__)
enum { TILE = 12 };
#else
enum { TILE = 6 };
#endif
static inline int64_t tile_rows(int64_t left) { return left >= TILE ? TILE : left >= 4 ? 4 : left >= 2 ? 2 : 1; }

// Rounds 32 numbers to integers -127 … 127 by their largest size, halves to even. What is not finite makes the block NaN.
static inline void round_block(int8_t *to, Around *around, const float *x) {
#pragma clang fp reassociate(off) // or each number would be divided, and rounded otherwise
  union { uint32_t i; float f; } most = {0};
  uint32_t bits[QUANT_BLOCK];
  int32_t rounded[QUANT_BLOCK], low = 0, high = 0;
  memcpy(bits, x, sizeof bits);
  for (int j = 0; j < QUANT_BLOCK; j++) bits[j] &= 0x7fffffff;
  for (int j = 0; j < QUANT_BLOCK; j++) most.i = bits[j] > most.i ? bits[j] : most.i;
  int finite = most.i < 0x7f800000, any = finite && most.f > 1e-30f;
  float inverse = any ? 127.0f / most.f : 0.0f, scale = !finite ? __builtin_nanf("") : any ? most.f / 127.0f : 0.0f;
  for (int j = 0; j < QUANT_BLOCK; j++) rounded[j] = any ? (int32_t)__builtin_rintf(x[j] * inverse) : 0;
  for (int j = 0; j < QUANT_BLOCK; j++) to[j] = (int8_t)rounded[j];
  for (int j = 0; j < QUANT_BLOCK / 2; j++) low += rounded[j];
  for (int j = QUANT_BLOCK / 2; j < QUANT_BLOCK; j++) high += rounded[j];
  *around = (Around){scale, scale * (float)(low + high), low, high};
}

typedef struct {
  float *y;
  int64_t stride;
  const uint8_t *w;
  const float *bias;
  int64_t outputs, type, groups; // groups: of an iteration
} Layer;

typedef struct {
  Layer each[3];
  int64_t iterations[3];
  const float *x;
  uint8_t *rounded;
  int64_t n, k, total; // total: iterations of all layers
  const Weights *next; // what the product after this one reads, 0 if nobody knows
} Product;

static void round_rows(const void *job, int64_t i, int thread) {
  const Product *p = job;
  int64_t row = 0, rows = tile_rows(p->n);
  (void)thread;
  for (; i > 0; i--, rows = tile_rows(p->n - row)) row += rows;
  uint8_t *to = p->rounded + row * p->k / QUANT_BLOCK * RECORD;
  for (int64_t b = 0; b < p->k; b += QUANT_BLOCK, to += rows * RECORD)
    for (int64_t r = 0; r < rows; r++) {
      Around around;
      round_block((int8_t *)to + r * QUANT_BLOCK, &around, p->x + (row + r) * p->k + b);
      memcpy(to + rows * QUANT_BLOCK + r * sizeof around, &around, sizeof around);
    }
}

// The scales and minimums of a block's rows; of a type with factors for 16 columns, both factors times the scale
static inline __attribute__((always_inline)) void load_scales(const int scales, const uint8_t *at, int64_t block, int part,
                                                              Floats *scale, Floats *other) {
  if (scales == SCALED) {
    *scale = load_halves(at + (block * GROUP + part * SUMS) * 2);
  } else if (scales == WITH_MINIMUM) {
    *scale = load_halves(at + (block * 2 * GROUP + part * SUMS) * 2);
    *other = load_halves(at + (block * 2 * GROUP + GROUP + part * SUMS) * 2);
  } else if (scales == FACTORS) {
    const uint8_t *whole = at + block / 8 * GROUP * 20, *own = whole + GROUP * 4 + block % 8 * GROUP * 2 + part * SUMS;
    *scale = load_halves(whole + part * SUMS * 2) * load_factors(own, 0);
    *other = -(load_halves(whole + (GROUP + part * SUMS) * 2) * load_factors(own + GROUP, 0));
  } else {
    const uint8_t *whole = at + block / 8 * GROUP * 18, *own = whole + GROUP * 2 + block % 8 * GROUP * 2 + part * SUMS;
    Floats of = load_halves(whole + part * SUMS * 2);
    *scale = of * load_factors(own, 1);
    *other = of * load_factors(own + GROUP, 1);
  }
}

// A part of a block's lines, a number a byte
static inline __attribute__((always_inline)) void unpacked(Bytes *w, const uint8_t *at, const Form form) {
#pragma clang loop unroll(full)
  for (int j = 0; j < 8; j++) {
    if (form.quants == SIGNED) w[j] = load_bytes(at + j * LINE);
    else w[j] = j < 4 ? load_bytes(at + j * LINE) & 15 : load_bytes(at + (j - 4) * LINE) >> 4;
    if (form.quants == FIVES) w[j] |= load_bytes(at + 4 * LINE) >> j << 4 & 16;
    if (form.quants == SIXES) w[j] |= load_bytes(at + (4 + j / 4) * LINE) >> 2 * (j % 4) << 4 & 48;
  }
}

// sum + a block's weights times the activations of a row of a tile
static inline __attribute__((always_inline)) Floats block_added(Floats sum, const Bytes *w, const int8_t *a, Around around,
                                                                Floats scale, Floats other, const Form form, const int rows) {
#pragma clang fp contract(off) reassociate(off)
  const int offset = form.quants == SIGNED ? SIGNED_OFFSET : form.offset;
  Floats of = spread_float(around.scale);
  if (form.scales == SIGNED_FACTORS) {
    Floats low = __builtin_convertvector(dot_lines(form.quants, spread(-offset * around.low), w, a, 0, 4), Floats);
    Floats high = __builtin_convertvector(dot_lines(form.quants, spread(-offset * around.high), w, a, 4, 4), Floats);
    return fused(of, fused(scale, low, other * high), sum);
  }
  Ints whole = spread(-offset * (around.low + around.high));
  if (rows > 2) whole = dot_lines(form.quants, whole, w, a, 0, 8);
  else whole = dot_lines(form.quants, whole, w, a, 0, 4) + dot_lines(form.quants, spread(0), w, a, 4, 4);
  sum = fused(__builtin_convertvector(whole, Floats), scale * of, sum);
  return form.scales == SCALED ? sum : fused(other, spread_float(around.scaled_sum), sum);
}

// y of one group of outputs for the rows of a tile, while the memory from `next` on is prefetched, if there is any: past the
// larger caches, which have better use than for what is read once
static inline __attribute__((always_inline)) void tile(const Layer *p, int64_t group, int64_t k, const uint8_t *x, float *y,
                                                       const int rows, const Form form, const uint8_t *next) {
#pragma clang fp contract(off) reassociate(off)
  int64_t blocks = k / QUANT_BLOCK, bytes = group_bytes(form, k), step = bytes / blocks;
  const uint8_t *lines = p->w + group * bytes, *scales = lines + blocks * line_bytes(form);
  int64_t left = group * GROUP, columns = min64(GROUP, p->outputs - left);
  float out[TILE][GROUP];
  const int beside = rows == 1 ? PARTS : 1; // one row leaves registers for all parts of a line, which is then read once
#pragma clang loop unroll(full)
  for (int start = 0; start < PARTS; start += beside) {
    Floats sums[PARTS][TILE] = {{{0}}};
    const uint8_t *at = lines, *record = x, *ahead = next;
    for (int64_t b = 0; b < blocks; b++, at += line_bytes(form), record += rows * RECORD, ahead += step) {
      if (next && !start)
        for (int64_t j = 0; j < step; j += LINE) __builtin_prefetch(ahead + j, 0, 0);
#pragma clang loop unroll(full)
      for (int part = start; part < start + beside; part++) {
        Bytes w[8];
        Floats scale, other;
        unpacked(w, at + part * VECTOR, form);
        load_scales(form.scales, scales, b, part, &scale, &other);
#pragma clang loop unroll(full)
        for (int r = 0; r < rows; r++) {
          Around around;
          memcpy(&around, record + rows * QUANT_BLOCK + r * sizeof around, sizeof around);
          sums[part][r] = block_added(sums[part][r], w, (const int8_t *)record + r * QUANT_BLOCK, around, scale, other, form, rows);
        }
      }
    }
#pragma clang loop unroll(full)
    for (int part = start; part < start + beside; part++)
#pragma clang loop unroll(full)
      for (int r = 0; r < rows; r++) memcpy(out[r] + part * SUMS, &sums[part][r], sizeof sums[part][r]);
  }
  for (int r = 0; r < rows; r++)
    for (int64_t j = 0; j < columns; j++)
      y[r * p->stride + left + j] = out[r][j] + (p->bias ? p->bias[left + j] : 0.0f);
}

// The groups of an iteration for all rows: a tile's activations stay near while it meets each group.
static inline __attribute__((always_inline)) void tiles(const Product *p, const Layer *layer, int64_t i, const uint8_t *then,
                                                        const Form form) {
  int64_t first = i * layer->groups, end = min64(first + layer->groups, ceil_div(layer->outputs, GROUP)), rows;
  int64_t bytes = group_bytes(form, p->k);
  for (int64_t row = 0; row < p->n; row += rows) {
    const uint8_t *x = p->rounded + row * p->k / QUANT_BLOCK * RECORD;
    float *y = layer->y + row * layer->stride;
    rows = tile_rows(p->n - row);
    for (int64_t group = first; group < end; group++) {
      int64_t past = PREFETCHED - (end - group) * bytes; // beyond the iteration
      const uint8_t *next = row ? 0 : past < 0 || !then ? layer->w + group * bytes + PREFETCHED : then + past;
      if (rows == TILE) tile(layer, group, p->k, x, y, TILE, form, next);
      else if (rows == 4) tile(layer, group, p->k, x, y, 4, form, next);
      else if (rows == 2) tile(layer, group, p->k, x, y, 2, form, next);
      else tile(layer, group, p->k, x, y, 1, form, next);
    }
  }
}

#define FOR_TYPE(type)                                                                                                 \
  static void tiles_##type(const Product *p, const Layer *layer, int64_t i, const uint8_t *then) {                    \
    tiles(p, layer, i, then, form_of(type));                                                                           \
  }
FOR_TYPE(Q4_0)
FOR_TYPE(Q4_1)
FOR_TYPE(Q5_0)
FOR_TYPE(Q5_1)
FOR_TYPE(Q8_0)
FOR_TYPE(Q4_K)
FOR_TYPE(Q5_K)
FOR_TYPE(Q6_K)

static void groups_of_layers(const void *job, int64_t i, int thread) {
  const Product *p = job;
  int last = i + 1 == range_start(p->total, thread + 1) || i + 1 == p->total, j = 0;
  while (i >= p->iterations[j]) i -= p->iterations[j++];
  const Layer *layer = &p->each[j];
  const uint8_t *then = last ? (const uint8_t *)part_begins(p->next, thread) : i + 1 < p->iterations[j] ? 0 : layer[1].w;
  switch (layer->type) {
  case Q4_0: return tiles_Q4_0(p, layer, i, then);
  case Q4_1: return tiles_Q4_1(p, layer, i, then);
  case Q5_0: return tiles_Q5_0(p, layer, i, then);
  case Q5_1: return tiles_Q5_1(p, layer, i, then);
  case Q8_0: return tiles_Q8_0(p, layer, i, then);
  case Q4_K: return tiles_Q4_K(p, layer, i, then);
  case Q5_K: return tiles_Q5_K(p, layer, i, then);
  case Q6_K: return tiles_Q6_K(p, layer, i, then);
  }
}

enum { GROUPS_TOGETHER = 32 };

void quantised_linear(float *y, const float *x, const uint8_t *w1, const uint8_t *w2, const uint8_t *w3, const float *b1,
                      const float *b2, const float *b3, int64_t n, int64_t k, int64_t o1, int64_t o2, int64_t o3, int64_t t1,
                      int64_t t2, int64_t t3, int64_t biased) {
  const uint8_t *w[] = {w1, w2, w3};
  const float *bias[] = {b1, b2, b3};
  int64_t o[] = {o1, o2, o3}, types[] = {t1, t2, t3}, wide = o1 + o2 + o3, share = ceil_div(n, ceil_div(n, PROMPT_ROWS));
  uint8_t *rounded = (uint8_t *)scratch(SHARED, ROUNDED_ROWS, share * k / QUANT_BLOCK * (RECORD / 4));
  if (!rounded) return;
  for (int64_t start = 0; start < n; start += share) {
    Product p = {.x = x + start * k, .rounded = rounded, .n = min64(share, n - start), .k = k};
    int64_t rounds = 0, left = 0, groups = 0;
    Weights read = {0};
    for (int j = 0; j < 3; j++) groups += ceil_div(o[j], GROUP);
    int64_t together = max64(1, min64(GROUPS_TOGETHER, groups / (4 * thread_count())));
    for (int j = 0; j < 3; left += o[j++]) {
      p.each[j] = (Layer){y + start * wide + left, wide, w[j], biased ? bias[j] : 0, o[j], types[j], together};
      p.total += p.iterations[j] = ceil_div(ceil_div(o[j], GROUP), together);
      read.at[j] = (const char *)w[j];
      read.bytes[j] = o[j] ? packed_bytes(o[j], k, types[j]) : 0;
    }
    for (int64_t row = 0; row < p.n; row += tile_rows(p.n - row)) rounds++;
    p.next = product_begins(p.n <= TILE ? read : (Weights){0}); // a prompt's rows keep the cores busy
    if (rounds == 1) round_rows(&p, 0, 0);
    else parallel_for(round_rows, &p, rounds);
    parallel_for(groups_of_layers, &p, p.total);
  }
}
