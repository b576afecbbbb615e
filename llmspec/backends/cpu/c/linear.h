// Linear layers of one input.
#pragma once
#include <stdint.h>

// Up to three layers of one input, their results side by side: y (n, o1 + o2 + o3) = x (n, i) · wᵀ + bias, w (o, i).
// `biased` is 0 where no bias is to be added; layers that are not there have o = 0.
void linear(float *y, const float *x, const float *w1, const float *w2, const float *w3, const float *b1, const float *b2,
            const float *b3, int64_t n, int64_t i, int64_t o1, int64_t o2, int64_t o3, int64_t biased);
