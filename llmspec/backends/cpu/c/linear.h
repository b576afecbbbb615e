// Linear layers of one input.
#pragma once
#include <stdint.h>

// Up to three layers of one input, their results side by side: y (n, o1 + o2 + o3) = x (n, i) · wᵀ + bias, w (o, i).
// `biased` is 0 where no bias is to be added; layers that are not there have o = 0.
void linear(float *y, const float *x, const float *w1, const float *w2, const float *w3, const float *b1, const float *b2,
            const float *b3, int64_t n, int64_t i, int64_t o1, int64_t o2, int64_t o3, int64_t biased);

// The gradients of linear for x, each w, and the biases side by side
void linear_backward(float *to_x, float *to_w1, float *to_w2, float *to_w3, float *to_b, const float *gradient,
                     const float *x, const float *w1, const float *w2, const float *w3, int64_t n, int64_t i, int64_t o1,
                     int64_t o2, int64_t o3, int64_t biased);

// `linear` where what a row gets does not depend on the other rows: `single` for rows that are tokens of different
// sequences, in another order of sums than rows of a prompt. Up to three layers; o has three widths, `types` are those of
// halves.h.
__attribute__((visibility("hidden"))) void linear_by_row(float *y, const float *x, const void *const *w, const int64_t *types,
                                                         const float *const *b, int64_t n, int64_t i, const int64_t *o,
                                                         int64_t biased, int64_t single);
