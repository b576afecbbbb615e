// Rotary positions, in the half-split form or of neighbours.
#include "rows.h"

typedef struct {
  float *out;
  const float *x, *cosine, *sine;
  const int32_t *positions;
  int64_t b, t, h, d, rotated, width, interleaved, positions_batch, table_rows;
  float sign;
} Rotation;

static void rotate_chunk(const void *job, int64_t i, int thread) {
  const Rotation *p = job;
  int64_t half = p->width / 2, rest = p->d - p->width;
  (void)thread;
  for (int64_t r = i * ROWS; r < min64((i + 1) * ROWS, p->b * p->t); r++) {
    int64_t place = p->positions[p->positions_batch == 1 ? r % p->t : r];
    if (!check_index(place, p->table_rows)) return;
    const float *c = p->cosine + place * p->width, *s = p->sine + place * p->width;
    for (int64_t h = 0; h < p->h; h++) {
      const float *x = p->x + (r * p->h + h) * p->d;
      float *out = p->out + (r * p->h + h) * p->d;
      if (h >= p->rotated) {
        memcpy(out, x, p->d * sizeof(float));
        continue;
      }
      if (rest) memcpy(out + p->width, x + p->width, rest * sizeof(float));
      for (int64_t j = 0; p->interleaved && j < p->width; j += 2) {
        float low = x[j], high = x[j + 1];
        out[j] = low * c[j] - p->sign * high * s[j];
        out[j + 1] = high * c[j + 1] + p->sign * low * s[j + 1];
      }
      for (int64_t j = 0; !p->interleaved && j < half; j++) {
        float low = x[j], high = x[j + half];
        out[j] = low * c[j] - p->sign * high * s[j];
        out[j + half] = high * c[j + half] + p->sign * low * s[j + half];
      }
    }
  }
}

// out (b, t, h, d) = x with the first `width` numbers of its first heads rotated by the angles at positions
// (positions_batch, t), positions_batch = b or 1, of tables (table_rows, width) of cosines and sines, and the others as
// they are; pairs are j and j + width / 2, or neighbours where `interleaved`. Sign -1 rotates back (the gradient).
void rotate(float *out, const float *x, const float *cosine, const float *sine, const int32_t *positions, int64_t b,
            int64_t t, int64_t h, int64_t d, int64_t rotated, int64_t width, int64_t interleaved, int64_t positions_batch,
            int64_t table_rows, int64_t sign) {
  Rotation job = {out, x, cosine, sine, positions, b, t, h, d, rotated, width, interleaved, positions_batch, table_rows, (float)sign};
  parallel_for(rotate_chunk, &job, ceil_div(b * t, ROWS));
}
