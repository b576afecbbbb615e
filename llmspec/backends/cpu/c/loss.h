// The loss over the vocabulary, of logits that are there.
#pragma once
#include "pool.h"

// linear_cross_entropy of logits that stand in `slopes` (n, v), which receives the losses' own gradients in their place.
INTERNAL void losses_of_logits(float *losses, float *slopes, const int32_t *targets, int64_t n, int64_t v, float smoothing,
                               float softcap, float z_loss);

// out (n, d) = x (n, d), each row times its factor (n)
INTERNAL void scale_rows(float *out, const float *x, const float *factor, int64_t n, int64_t d);
