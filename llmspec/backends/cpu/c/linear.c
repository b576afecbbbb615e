// Linear layers.
#include "gemm.h"
#include "linear.h"
#include "rows.h"

void linear(float *y, const float *x, const float *w1, const float *w2, const float *w3, const float *b1, const float *b2,
            const float *b3, int64_t n, int64_t i, int64_t o1, int64_t o2, int64_t o3, int64_t biased) {
  const float *w[] = {w1, w2, w3}, *b[] = {b1, b2, b3};
  int64_t o[] = {o1, o2, o3}, wide = o1 + o2 + o3;
  Gemm each[3];
  int count = 0;
  for (int j = 0; j < 3; y += o[j++])
    if (o[j])
      each[count++] = (Gemm){y, wide, {x, i, 1}, {w[j], 1, i}, n, o[j], i, 0, biased ? b[j] : 0, 0, 0, 0, 0, 0, 0};
  if (gemm_weights(each, count)) return;
  for (int j = 0; j < count; j++)
    gemm(each[j].c, wide, each[j].a, each[j].b, n, each[j].n, i, 0, each[j].bias);
}

void linear_backward(float *to_x, float *to_w1, float *to_w2, float *to_w3, float *to_b, const float *gradient,
                     const float *x, const float *w1, const float *w2, const float *w3, int64_t n, int64_t i, int64_t o1,
                     int64_t o2, int64_t o3, int64_t biased) {
  const float *w[] = {w1, w2, w3}, *g = gradient;
  float *to_w[] = {to_w1, to_w2, to_w3};
  int64_t o[] = {o1, o2, o3}, wide = o1 + o2 + o3;
  for (int j = 0; j < 3; g += o[j++]) {
    if (!o[j]) continue;
    gemm(to_x, i, (Matrix){g, wide, 1}, (Matrix){w[j], i, 1}, n, i, o[j], j > 0, 0);
    gemm(to_w[j], i, (Matrix){g, 1, wide}, (Matrix){x, i, 1}, o[j], i, n, 0, 0);
  }
  if (biased) column_sums(to_b, gradient, n, wide);
}
