// Products with weights that have no gradient.
#pragma once
#include "pool.h"

typedef struct {
  const uint8_t *weights;
  int64_t o, i, type; // rows, columns, ggml's number of the type, 0 for float32
} FrozenWeights;

// y (n, o), `wide` apart, = x (n, i) · wᵀ + bias; whether there was memory for it
INTERNAL int forward_frozen(float *y, int64_t wide, const float *x, FrozenWeights w, const float *bias, int64_t n);
