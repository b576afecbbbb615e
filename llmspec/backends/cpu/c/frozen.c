// Products with weights that training leaves as they are: float32, or packed ones (quantised.h), whose float32 numbers
// are made a few rows at a time in one place, forward and backward. Nothing is computed for the weights themselves.
#include "frozen.h"
#include "gemm.h"
#include "halves.h"
#include "loss.h"
#include "quantised.h"

// Rows that are made float32 at once. Results have the bits that a whole matrix of float32 gives, but for gradients of
// longer matrices, whose sums over rows are made in other stretches.
enum { FROZEN_ROWS = 3840 };

// The weights from row `start` on, at most `rows` of them; 0 where there is no memory
static const float *frozen_rows(FrozenWeights w, int64_t start, int64_t rows) {
  if (w.type == FLOAT_32) return (const float *)w.weights + start * w.i;
  float *out = scratch(SHARED, DEQUANTISED, rows * w.i);
  if (out && is_half(w.type)) widened_rows(out, w.weights, start, rows, w.i, w.type);
  else if (out) dequantised_rows(out, w.weights, start, rows, w.i, w.type);
  return out;
}

static int64_t rows_at_once(FrozenWeights w) { return w.type == FLOAT_32 ? w.o : FROZEN_ROWS; }

int forward_frozen(float *y, int64_t wide, const float *x, FrozenWeights w, const float *bias, int64_t n) {
  for (int64_t start = 0, step = rows_at_once(w); start < w.o; start += step) {
    int64_t rows = min64(step, w.o - start);
    const float *numbers = frozen_rows(w, start, rows);
    if (!numbers) return 0;
    gemm(y + start, wide, (Matrix){x, w.i, 1}, (Matrix){numbers, 1, w.i}, n, rows, w.i, 0, bias ? bias + start : 0);
  }
  return 1;
}

// to_x (n, i) = or += gradient (n, o), `wide` apart, · w
static int backward_frozen(float *to_x, const float *gradient, int64_t wide, FrozenWeights w, int64_t n, int accumulate) {
  for (int64_t start = 0, step = rows_at_once(w); start < w.o; start += step, accumulate = 1) {
    int64_t rows = min64(step, w.o - start);
    const float *numbers = frozen_rows(w, start, rows);
    if (!numbers) return 0;
    gemm(to_x, w.i, (Matrix){gradient + start, wide, 1}, (Matrix){numbers, w.i, 1}, n, w.i, rows, accumulate, 0);
  }
  return 1;
}

// linear (linear.h) for frozen weights; t are their types
void frozen_linear(float *y, const float *x, const uint8_t *w1, const uint8_t *w2, const uint8_t *w3, const float *b1,
                   const float *b2, const float *b3, int64_t n, int64_t i, int64_t o1, int64_t o2, int64_t o3, int64_t t1,
                   int64_t t2, int64_t t3, int64_t biased) {
  FrozenWeights each[] = {{w1, o1, i, t1}, {w2, o2, i, t2}, {w3, o3, i, t3}};
  const float *bias[] = {b1, b2, b3};
  int64_t wide = o1 + o2 + o3;
  for (int j = 0; j < 3; y += each[j++].o)
    if (!forward_frozen(y, wide, x, each[j], biased ? bias[j] : 0, n)) return;
}

// The gradient of frozen_linear for x
void frozen_linear_backward(float *to_x, const float *gradient, const uint8_t *w1, const uint8_t *w2, const uint8_t *w3,
                            int64_t n, int64_t i, int64_t o1, int64_t o2, int64_t o3, int64_t t1, int64_t t2, int64_t t3) {
  FrozenWeights each[] = {{w1, o1, i, t1}, {w2, o2, i, t2}, {w3, o3, i, t3}};
  int64_t wide = o1 + o2 + o3;
  for (int j = 0; j < 3; gradient += each[j++].o)
    if (!backward_frozen(to_x, gradient, wide, each[j], n, j > 0)) return;
}

// linear_cross_entropy (loss.c) with frozen weights (v, d)
void frozen_cross_entropy(float *losses, float *slopes, const float *hidden, const uint8_t *w, const int32_t *targets,
                          int64_t n, int64_t d, int64_t v, int64_t type, float smoothing, float softcap,
                          float z_loss) {
  if (!forward_frozen(slopes, v, hidden, (FrozenWeights){w, v, d, type}, 0, n)) return;
  losses_of_logits(losses, slopes, targets, n, v, smoothing, softcap, z_loss);
}

// The gradient of frozen_cross_entropy for hidden
void frozen_cross_entropy_backward(float *to_hidden, const float *gradient, const float *slopes, const uint8_t *w,
                                   int64_t n, int64_t d, int64_t v, int64_t type) {
  if (!backward_frozen(to_hidden, slopes, v, (FrozenWeights){w, v, d, type}, n, 0)) return;
  scale_rows(to_hidden, to_hidden, gradient, n, d);
}
