// Keys and values into a KV cache that rounds them, and rows of it as float32 again.
#include "kept.h"
#include "rows.h"

typedef struct {
  void *values[2]; // of keys, of values: (held, span, numbers)
  uint16_t *scales[2];
  const float *from; // (rows, tokens, stride): keys `first` numbers in, values behind them
  const int32_t *places;
  int64_t rows, tokens, held, span, numbers, stride, first, kind;
} Store;

static void keep(const Store *p, int which, int64_t to, const float *from) {
  if (p->kind == KEPT_HALF) {
    uint16_t *out = (uint16_t *)p->values[which] + to;
    for (int64_t u = 0; u < p->numbers; u++) out[u] = half_of(from[u]);
    return;
  }
  int8_t *out = (int8_t *)p->values[which] + to;
  for (int64_t start = 0; start < p->numbers; start += KEPT_BLOCK) {
    float size = 0.0f;
    for (int64_t u = start; u < start + KEPT_BLOCK; u++) {
      float here = from[u] < 0.0f ? -from[u] : from[u];
      size = here > size || here != here ? here : size; // what is no number stays seen
    }
    uint16_t half = half_of(size / 127.0f);
    float scale = half_value(half), inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    p->scales[which][(to + start) / KEPT_BLOCK] = half;
    for (int64_t u = start; u < start + KEPT_BLOCK; u++) {
      float x = __builtin_rintf(from[u] * inverse);
      out[u] = (int8_t)(x > 127.0f ? 127.0f : x < -127.0f ? -127.0f : x == x ? x : 0.0f);
    }
  }
}

static void keep_token(const void *job, int64_t i, int thread) {
  const Store *p = job;
  int64_t row = i / p->tokens, token = i % p->tokens;
  const int32_t *place = p->places + 3 * row;
  (void)thread;
  if (token >= place[2]) return;
  if (!check_index(place[0], p->held) || !check_index(place[1] + token, p->span)) return;
  int64_t to = ((int64_t)place[0] * p->span + place[1] + token) * p->numbers;
  const float *from = p->from + i * p->stride + p->first;
  for (int which = 0; which < 2; which++) keep(p, which, to, from + which * p->numbers);
}

// Keys and values of tokens into a cache of halves, or of bytes with their scales. `places` (rows, 3) are a row of the
// cache, the first place there, and how many tokens are stored.
void keep_halves(void *k, void *v, const float *from, const int32_t *places, int64_t rows, int64_t tokens, int64_t held,
                 int64_t span, int64_t numbers, int64_t stride, int64_t first) {
  Store job = {{k, v}, {0, 0}, from, places, rows, tokens, held, span, numbers, stride, first, KEPT_HALF};
  parallel_for(keep_token, &job, rows * tokens);
}

void keep_bytes(void *k, void *v, void *k_scales, void *v_scales, const float *from, const int32_t *places, int64_t rows,
                int64_t tokens, int64_t held, int64_t span, int64_t numbers, int64_t stride, int64_t first) {
  Store job = {{k, v}, {k_scales, v_scales}, from, places, rows, tokens, held, span, numbers, stride, first, KEPT_BYTES};
  parallel_for(keep_token, &job, rows * tokens);
}

typedef struct {
  float *out;
  Kept from;
  const int32_t *ids;
  int64_t numbers, held, share;
} Take;

static void take_part(const void *job, int64_t i, int thread) {
  const Take *p = job;
  int64_t parts = ceil_div(p->numbers, p->share), row = i / parts, start = i % parts * p->share;
  int64_t end = min64(start + p->share, p->numbers), at = (int64_t)p->ids[row] * p->numbers;
  float *out = p->out + row * p->numbers;
  (void)thread;
  if (!check_index(p->ids[row], p->held)) return;
  const uint16_t *half = (const uint16_t *)p->from.values + at;
  const int8_t *byte = (const int8_t *)p->from.values + at;
  if (p->from.kind == KEPT_HALF)
    for (int64_t u = start; u < end; u++) out[u] = half_value(half[u]);
  else
    for (int64_t block = start; block < end; block += KEPT_BLOCK) {
      float scale = half_value(p->from.scales[(at + block) / KEPT_BLOCK]);
      for (int64_t u = block; u < block + KEPT_BLOCK; u++) out[u] = scale * (float)byte[u];
    }
}

// out (rows, numbers) = rows `ids` of a cache (held, numbers)
void take_kept(float *out, const void *values, const void *scales, const int32_t *ids, int64_t rows, int64_t numbers,
               int64_t held, int64_t kind) {
  Take job = {out, {values, scales, kind}, ids, numbers, held, 1 << 14};
  parallel_for(take_part, &job, rows * ceil_div(numbers, job.share));
}
