// How loops over rows are divided, and sums over rows in two stages.
#pragma once
#include "pool.h"

// Rows or elements of one iteration: fixed numbers, so that sums over iterations have the same bits everywhere.
enum { ROWS = 32, CHUNK = 8192, STRIPE = 64 };

// out (d) = the sum of partial (chunks, d), in the order of the chunks
INTERNAL void sum_partials(float *out, float *partial, int64_t chunks, int64_t d);

// out (d) = the sum of the rows of x (n, d): the gradient of a bias
INTERNAL void column_sums(float *out, const float *x, int64_t n, int64_t d);
