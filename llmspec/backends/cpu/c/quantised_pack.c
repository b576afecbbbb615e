// Blocks of ggml's types to the arrangement of quantised.h, and rows of it as numbers.
#include "halves.h"
#include "quantised.h"

enum { OF_BLOCK = SUPER_BLOCK };

// A block of a file, taken apart: 32 or 256 numbers, halves, and 8-bit factors (scale, minimum, of each 32 or 16)
typedef struct {
  uint8_t numbers[OF_BLOCK];
  uint16_t scale, minimum;
  uint8_t factors[16], minimums[8];
} Apart;

static inline int64_t numbers_of(int64_t type) { return type >= Q4_K ? SUPER_BLOCK : QUANT_BLOCK; }
static inline int64_t bytes_of(int64_t type) {
  return type == Q4_0   ? 18
         : type == Q4_1 ? 20
         : type == Q5_0 ? 22
         : type == Q5_1 ? 24
         : type == Q8_0 ? 34
         : type == Q4_K ? 144
         : type == Q5_K ? 176
                        : 210;
}

static void take_apart_small(Apart *out, const uint8_t *in, int64_t type) {
  int minimum = type == Q4_1 || type == Q5_1, fifth = type == Q5_0 || type == Q5_1;
  const uint8_t *at = in + (minimum ? 4 : 2);
  uint32_t high = 0;
  memcpy(&out->scale, in, 2);
  if (minimum) memcpy(&out->minimum, in + 2, 2);
  if (type == Q8_0) {
    memcpy(out->numbers, at, QUANT_BLOCK);
    return;
  }
  if (fifth) memcpy(&high, at, 4), at += 4;
  for (int j = 0; j < 16; j++) {
    out->numbers[j] = (uint8_t)((at[j] & 15) | (high >> j & 1) << 4);
    out->numbers[16 + j] = (uint8_t)(at[j] >> 4 | (high >> (16 + j) & 1) << 4);
  }
}

// 8 factors of 6 bits for scales and 8 for minimums in 12 bytes: the first four of each whole, the others in two parts
static void take_factors(Apart *out, const uint8_t *in) {
  for (int j = 0; j < 4; j++) {
    out->factors[j] = in[j] & 63;
    out->minimums[j] = in[4 + j] & 63;
    out->factors[4 + j] = (uint8_t)((in[8 + j] & 15) | (in[j] >> 6) << 4);
    out->minimums[4 + j] = (uint8_t)(in[8 + j] >> 4 | (in[4 + j] >> 6) << 4);
  }
}

static void take_apart_large(Apart *out, const uint8_t *in, int64_t type) {
  if (type == Q6_K) {
    const uint8_t *low = in, *high = in + 128;
    for (int half = 0; half < 2; half++, low += 64, high += 32)
      for (int j = 0; j < 32; j++)
        for (int part = 0; part < 4; part++) {
          int nibble = part < 2 ? low[part * 32 + j] & 15 : low[(part - 2) * 32 + j] >> 4;
          out->numbers[half * 128 + part * 32 + j] = (uint8_t)(nibble | (high[j] >> 2 * part & 3) << 4);
        }
    memcpy(out->factors, in + 192, 16);
    memcpy(&out->scale, in + 208, 2);
    return;
  }
  const uint8_t *fifth = type == Q5_K ? in + 16 : 0, *at = in + (fifth ? 48 : 16);
  memcpy(&out->scale, in, 2);
  memcpy(&out->minimum, in + 2, 2);
  take_factors(out, in + 4);
  for (int pair = 0; pair < 4; pair++)
    for (int j = 0; j < 32; j++) {
      int low = fifth ? fifth[j] >> 2 * pair & 1 : 0, high = fifth ? fifth[j] >> (2 * pair + 1) & 1 : 0;
      out->numbers[pair * 64 + j] = (uint8_t)((at[pair * 32 + j] & 15) | low << 4);
      out->numbers[pair * 64 + 32 + j] = (uint8_t)(at[pair * 32 + j] >> 4 | high << 4);
    }
}

// Adds bits to four bytes that have none of them
static inline void put_bits(uint8_t *at, uint32_t bits) {
  uint32_t there;
  memcpy(&there, at, 4);
  there |= bits;
  memcpy(at, &there, 4);
}

// Puts a row's block into its places among the lines of a group, which are 0, and its scales among the scales
static void put_block(uint8_t *lines, uint8_t *scales, const Apart *apart, int64_t row, int64_t block, Form form, int64_t count) {
  for (int64_t b = 0; b < count; b++) {
    const uint8_t *numbers = apart->numbers + b * QUANT_BLOCK;
    uint8_t *to = lines + (block + b) * line_bytes(form) + 4 * row;
    for (int j = 0; j < 8; j++) {
      uint32_t four; // numbers at once: what is shifted stays within its byte
      memcpy(&four, numbers + 4 * j, 4);
      if (form.quants == SIGNED) memcpy(to + j * LINE, &four, 4);
      else put_bits(to + j % 4 * LINE, (four & 0x0f0f0f0fu) << j / 4 * 4);
      if (form.quants == FIVES) put_bits(to + 4 * LINE, (four >> 4 & 0x01010101u) << j);
      if (form.quants == SIXES) put_bits(to + (4 + j / 4) * LINE, (four >> 4 & 0x03030303u) << j % 4 * 2);
    }
  }
  if (form.scales == SCALED) memcpy(scales + (block * GROUP + row) * 2, &apart->scale, 2);
  if (form.scales == WITH_MINIMUM) {
    memcpy(scales + (block * 2 * GROUP + row) * 2, &apart->scale, 2);
    memcpy(scales + (block * 2 * GROUP + GROUP + row) * 2, &apart->minimum, 2);
  }
  if (form.scales != FACTORS && form.scales != SIGNED_FACTORS) return;
  int pair = form.scales == FACTORS, head = pair ? 4 : 2;
  uint8_t *whole = scales + block / 8 * GROUP * (head + 16), *own = whole + GROUP * head;
  memcpy(whole + row * 2, &apart->scale, 2);
  if (pair) memcpy(whole + (GROUP + row) * 2, &apart->minimum, 2);
  for (int j = 0; j < 16; j++) own[j * GROUP + row] = !pair ? apart->factors[j] : j % 2 ? apart->minimums[j / 2] : apart->factors[j / 2];
}

typedef struct {
  uint8_t *out;
  const uint8_t *in;
  int64_t rows, k, type;
} Packing;

static void pack_group(const void *job, int64_t group, int thread) {
  const Packing *p = job;
  Form form = form_of(p->type);
  int64_t bytes = group_bytes(form, p->k), wide = numbers_of(p->type), of_block = bytes_of(p->type);
  uint8_t *lines = p->out + group * bytes, *scales = lines + p->k / QUANT_BLOCK * line_bytes(form);
  (void)thread;
  memset(lines, 0, bytes); // rows that are not there
  for (int64_t row = 0; row < min64(GROUP, p->rows - group * GROUP); row++) {
    const uint8_t *in = p->in + (group * GROUP + row) * (p->k / wide) * of_block;
    for (int64_t b = 0; b < p->k / wide; b++, in += of_block) {
      Apart apart;
      if (p->type >= Q4_K) take_apart_large(&apart, in, p->type);
      else take_apart_small(&apart, in, p->type);
      put_block(lines, scales, &apart, row, b * (wide / QUANT_BLOCK), form, wide / QUANT_BLOCK);
    }
  }
}

int64_t packed_bytes(int64_t rows, int64_t k, int64_t type) { return ceil_div(rows, GROUP) * group_bytes(form_of(type), k); }

void pack_quantised(uint8_t *out, const uint8_t *in, int64_t rows, int64_t k, int64_t type) {
  Packing job = {out, in, rows, k, type};
  parallel_for(pack_group, &job, ceil_div(rows, GROUP));
}

typedef struct {
  float *out;
  const uint8_t *packed;
  const int32_t *ids;
  int64_t n, k, v, type;
} Lookup;

static inline float factor_half(const uint8_t *at) {
  uint16_t half;
  memcpy(&half, at, 2);
  return half_value(half);
}

// Scale and minimum of 16 columns of a row: what dequantising a file gives, rounding by rounding
static void scale_of(Form form, const uint8_t *scales, int64_t sixteenth, int64_t row, float *scale, float *minimum) {
#pragma clang fp contract(off) reassociate(off)
  int64_t block = sixteenth / 2;
  *minimum = 0.0f;
  if (form.scales == SCALED) *scale = factor_half(scales + (block * GROUP + row) * 2);
  if (form.scales == WITH_MINIMUM) {
    *scale = factor_half(scales + (block * 2 * GROUP + row) * 2);
    *minimum = factor_half(scales + (block * 2 * GROUP + GROUP + row) * 2);
  }
  if (form.scales == FACTORS) {
    const uint8_t *whole = scales + block / 8 * GROUP * 20, *own = whole + GROUP * 4 + block % 8 * 2 * GROUP + row;
    *scale = factor_half(whole + row * 2) * (float)own[0];
    *minimum = -(factor_half(whole + (GROUP + row) * 2) * (float)own[GROUP]);
  }
  if (form.scales == SIGNED_FACTORS) {
    const uint8_t *whole = scales + block / 8 * GROUP * 18;
    *scale = factor_half(whole + row * 2) * (float)(int8_t)whole[GROUP * 2 + sixteenth % 16 * GROUP + row];
  }
}

// Number c of line j in a row's places among the lines of a block
static inline int number_at(const uint8_t *at, int quants, int64_t j, int64_t c) {
  if (quants == SIGNED) return (int8_t)at[j * LINE + c];
  int number = at[j % 4 * LINE + c] >> j / 4 * 4 & 15;
  if (quants == FIVES) number |= (at[4 * LINE + c] >> j & 1) << 4;
  if (quants == SIXES) number |= (at[(4 + j / 4) * LINE + c] >> j % 4 * 2 & 3) << 4;
  return number;
}

static void one_row(const void *job, int64_t i, int thread) {
#pragma clang fp contract(off) reassociate(off)
  const Lookup *p = job;
  Form form = form_of(p->type);
  (void)thread;
  if (!check_index(p->ids[i], p->v)) return;
  int64_t row = p->ids[i] % GROUP, blocks = p->k / QUANT_BLOCK;
  const uint8_t *lines = p->packed + p->ids[i] / GROUP * group_bytes(form, p->k), *scales = lines + blocks * line_bytes(form);
  for (int64_t s = 0; s < 2 * blocks; s++) {
    const uint8_t *at = lines + s / 2 * line_bytes(form) + 4 * row;
    float scale, minimum;
    scale_of(form, scales, s, row, &scale, &minimum);
    for (int j = 0; j < 16; j++) {
      float product = scale * (float)(number_at(at, form.quants, s % 2 * 4 + j / 4, j % 4) - form.offset);
      p->out[i * p->k + s * 16 + j] = form.scales == WITH_MINIMUM || form.scales == FACTORS ? product + minimum : product;
    }
  }
}

void quantised_rows(float *out, const uint8_t *packed, const int32_t *ids, int64_t n, int64_t k, int64_t v, int64_t type) {
  if (is_half(type)) return half_rows(out, packed, ids, n, k, v, type);
  Lookup job = {out, packed, ids, n, k, v, type};
  parallel_for(one_row, &job, n);
}

typedef struct {
  float *out;
  const uint8_t *packed;
  int64_t start, rows, k, type;
} Stretch;

// A group's rows, a block of 32 columns after the other: its lines are in the cache for all of them
static inline __attribute__((always_inline)) void group_of_form(const Stretch *p, int64_t group, Form form) {
#pragma clang fp contract(off) reassociate(off)
  const uint8_t *lines = p->packed + group * group_bytes(form, p->k), *at = lines;
  int64_t blocks = p->k / QUANT_BLOCK, first = max64(p->start, group * GROUP), end = min64(p->start + p->rows, (group + 1) * GROUP);
  const uint8_t *scales = lines + blocks * line_bytes(form);
  for (int64_t b = 0; b < blocks; b++, at += line_bytes(form))
    for (int64_t row = first; row < end; row++) {
      float *out = p->out + (row - p->start) * p->k + b * QUANT_BLOCK, scale[2], minimum[2];
      for (int half = 0; half < 2; half++) scale_of(form, scales, 2 * b + half, row % GROUP, scale + half, minimum + half);
      const uint8_t *own = at + 4 * (row % GROUP);
      for (int j = 0; j < 8; j++)
        for (int c = 0; c < 4; c++) {
          float product = scale[j / 4] * (float)(number_at(own, form.quants, j, c) - form.offset);
          out[j * 4 + c] = form.scales == WITH_MINIMUM || form.scales == FACTORS ? product + minimum[j / 4] : product;
        }
    }
}

static void numbers_of_group(const void *job, int64_t i, int thread) {
  const Stretch *p = job;
  int64_t group = p->start / GROUP + i;
  (void)thread;
  switch (p->type) { // each with its form as a constant
  case Q4_0: return group_of_form(p, group, form_of(Q4_0));
  case Q4_1: return group_of_form(p, group, form_of(Q4_1));
  case Q5_0: return group_of_form(p, group, form_of(Q5_0));
  case Q5_1: return group_of_form(p, group, form_of(Q5_1));
  case Q8_0: return group_of_form(p, group, form_of(Q8_0));
  case Q4_K: return group_of_form(p, group, form_of(Q4_K));
  case Q5_K: return group_of_form(p, group, form_of(Q5_K));
  case Q6_K: return group_of_form(p, group, form_of(Q6_K));
  }
}

void dequantised_rows(float *out, const uint8_t *packed, int64_t start, int64_t rows, int64_t k, int64_t type) {
  Stretch job = {out, packed, start, rows, k, type};
  parallel_for(numbers_of_group, &job, ceil_div(start + rows, GROUP) - start / GROUP);
}
