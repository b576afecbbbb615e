// Calls the products of backends/cpu/c as a program of its own, for processors that have no Python here: compares them with
// sums in double, and the bits of several threads with those of one. Prints the set of instructions and how many were
// compared; ends with 1 where one is wrong.
#include "gemm.h"
#include "halves.h"
#include "linear.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

void matmul(float *c, const float *a, const float *b, int64_t z, int64_t m, int64_t n, int64_t k, int64_t swap_a, int64_t swap_b);
void linear_by_sequence(float *y, const float *x, const float *w1, const float *w2, const float *w3, const float *b1,
                        const float *b2, const float *b3, int64_t sequences, int64_t t, int64_t i, int64_t o1, int64_t o2,
                        int64_t o3, int64_t biased);
void start_threads(int64_t threads);
int64_t take_error(int64_t *words);
const char *instruction_set(void);

static uint64_t state = 1;
static float drawn(void) { // about normal: a sum of four even ones
  float sum = 0;
  for (int i = 0; i < 4; i++) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    sum += (float)(state >> 40) / 8388608.0f - 1.0f;
  }
  return sum;
}

static float *numbers(int64_t n) {
  float *made = malloc((size_t)n * sizeof(float));
  for (int64_t i = 0; i < n; i++) made[i] = drawn();
  return made;
}

static uint64_t mixed = 14695981039346656037u; // FNV-1a of all results
static int wrong = 0, compared = 0;

// c (m, n) beside Σ a(row, p) · b(p, column) + bias, within what any order of float32 sums allows
static void compare(const char *what, const float *c, Matrix a, Matrix b, const float *bias, int64_t m, int64_t n, int64_t k) {
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++) {
      double exact = bias ? bias[j] : 0, room = fabs(exact);
      for (int64_t p = 0; p < k; p++) {
        double x = (double)a.at[i * a.row + p * a.column] * b.at[p * b.row + j * b.column];
        exact += x;
        room += fabs(x);
      }
      uint32_t bits;
      memcpy(&bits, c + i * n + j, sizeof bits);
      mixed = (mixed ^ bits) * 1099511628211u;
      if (!(fabs(c[i * n + j] - exact) <= 4 * 0x1p-24 * (double)(k + 2) * room)) {
        if (!wrong++) fprintf(stderr, "%s %d x %d x %d: %g at %d, %d is %g\n", what, (int)m, (int)n, (int)k, c[i * n + j], (int)i, (int)j, exact);
      }
    }
  compared++;
}

// The same layers with weights of 16 bits; w becomes what they stand for
static void compare_halves(float *c, const float *a, float *b, const float *bias, int64_t m, int64_t n, int64_t k) {
  static const int64_t types[] = {HALF_16, BFLOAT_16};
  uint16_t *half = malloc((size_t)(n * k) * sizeof *half);
  for (int t = 0; t < 2; t++) {
    for (int64_t j = 0; j < n * k; j++) {
      Word word = {.f = b[j]};
      half[j] = types[t] == HALF_16 ? half_of(b[j]) : (uint16_t)(word.i >> 16);
      b[j] = types[t] == HALF_16 ? half_value(half[j]) : bfloat_value(half[j]);
    }
    Matrix x = {a, k, 1}, w = {b, 1, k};
    for (int64_t way = 0; way < 3; way++) { // as linear; a prompt; tokens
      int64_t sequences = way == 2 ? m : way, rows = way == 2 ? 1 : m;
      half_linear(c, a, half, half, half, bias, bias, bias, sequences, rows, k, n, 0, 0, types[t], 0, 0, 1);
      compare("halves", c, x, w, bias, m, n, k);
    }
  }
  free(half);
}

int main(int count, char **argument) {
  static const int64_t sizes[][3] = {{1, 1, 1}, {1, 65, 33}, {3, 17, 16}, {4, 8, 7}, {12, 8, 64}, {13, 9, 5}, {31, 33, 257},
                                     {49, 70, 100}, {97, 641, 13}, {26, 24, 513}, {260, 40, 31}};
  int64_t words[2];
  start_threads(count > 1 ? atoi(argument[1]) : 1);
  for (unsigned s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    int64_t m = sizes[s][0], n = sizes[s][1], k = sizes[s][2];
    float *a = numbers(m * k), *b = numbers(k * n), *bias = numbers(n), *c = malloc((size_t)(m * n) * sizeof(float));
    for (int swap = 0; swap < 4; swap++) {
      Matrix x = {a, swap & 1 ? 1 : k, swap & 1 ? m : 1}, y = {b, swap & 2 ? 1 : n, swap & 2 ? k : 1};
      matmul(c, a, b, 1, m, n, k, swap & 1, swap >> 1);
      compare("matmul", c, x, y, 0, m, n, k);
    }
    Matrix x = {a, k, 1}, w = {b, 1, k};
    linear(c, a, b, b, b, bias, bias, bias, m, k, n, 0, 0, 1);
    compare("linear", c, x, w, bias, m, n, k);
    linear_by_sequence(c, a, b, b, b, bias, bias, bias, 1, m, k, n, 0, 0, 1);
    compare("prompt", c, x, w, bias, m, n, k);
    linear_by_sequence(c, a, b, b, b, bias, bias, bias, m, 1, k, n, 0, 0, 1);
    compare("tokens", c, x, w, bias, m, n, k);
    compare_halves(c, a, b, bias, m, n, k);
    free(a), free(b), free(bias), free(c);
  }
  if (take_error(words)) wrong++;
  printf("%s, %d products, bits %016llx\n", instruction_set(), compared, (unsigned long long)mixed);
  return wrong != 0;
}
