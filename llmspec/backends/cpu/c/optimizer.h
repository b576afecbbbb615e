// Sums of squares, which clipping and Muon need.
#pragma once
#include <stdint.h>

// out (1) = the sum of the squares of x (n)
void square_sum(float *out, const float *x, int64_t n);
