// Rotary positions in the half-split form.
#include "rows.h"

typedef struct {
  float *out;
  const float *x, *cosine, *sine;
  const int32_t *positions;
  int64_t b, t, h, d, rotated, positions_batch, table_rows;
  float sign;
} Rotation;

static void rotate_chunk(const void *job, int64_t i, int thread) {
  const Rotation *p = job;
  int64_t half = p->d / 2;
  (void)thread;
  for (int64_t r = i * ROWS; r < min64((i + 1) * ROWS, p->b * p->t); r++) {
    int64_t place = p->positions[p->positions_batch == 1 ? r % p->t : r];
    if (!check_index(place, p->table_rows)) return;
    const float *c = p->cosine + place * p->d, *s = p->sine + place * p->d;
    for (int64_t h = 0; h < p->h; h++) {
      const float *x = p->x + (r * p->h + h) * p->d;
      float *out = p->out + (r * p->h + h) * p->d;
      if (h >= p->rotated) {
        memcpy(out, x, p->d * sizeof(float));
        continue;
      }
      for (int64_t j = 0; j < half; j++) {
        float low = x[j], high = x[j + half];
        out[j] = low * c[j] - p->sign * high * s[j];
        out[j + half] = high * c[j + half] + p->sign * low * s[j + half];
      }
    }
  }
}

// out (b, t, h, d) = x with its first heads rotated by the angles at positions (positions_batch, t), positions_batch = b
// or 1, of tables (table_rows, d) of cosines and sines, and the others as they are; sign -1 rotates back (the gradient)
void rotate(float *out, const float *x, const float *cosine, const float *sine, const int32_t *positions, int64_t b,
            int64_t t, int64_t h, int64_t d, int64_t rotated, int64_t positions_batch, int64_t table_rows, int64_t sign) {
  Rotation job = {out, x, cosine, sine, positions, b, t, h, d, rotated, positions_batch, table_rows, (float)sign};
  parallel_for(rotate_chunk, &job, ceil_div(b * t, ROWS));
}
