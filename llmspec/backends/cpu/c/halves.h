// Weights of 16 bits a number, as they lie in files: halves (half.h), and bfloat16, the upper half of a float32. They are
// widened to float32 where they are read, which loses nothing, and summed up in the order in which weights of float32
// are: results have the same bits.
#pragma once
#include "gemm.h"
#include "half.h"
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { FLOAT_32 = 0, HALF_16 = 1, BFLOAT_16 = 30 }; // ggml's numbers

static inline __attribute__((always_inline)) int64_t number_bytes(int64_t type) { return type == FLOAT_32 ? 4 : 2; }
static inline int is_half(int64_t type) { return type == HALF_16 || type == BFLOAT_16; }

static inline float bfloat_value(uint16_t upper) {
  Word word = {.i = (uint32_t)upper << 16};
  return word.f;
}

// A number at any address of two bytes
static inline __attribute__((always_inline)) float load_number(const int type, const void *at) {
  uint16_t bits;
  if (type == FLOAT_32) return *(const float *)at;
  memcpy(&bits, at, sizeof bits);
  return type == HALF_16 ? half_value(bits) : bfloat_value(bits);
}

// LANES numbers that follow one another
static inline __attribute__((always_inline)) Lanes load_lanes(const int type, const void *at) {
  if (type == FLOAT_32) return *(const Loose *)at;
  if (type == BFLOAT_16) {
    typedef uint16_t Upper __attribute__((vector_size(LANES * 2)));
    typedef uint32_t Bits __attribute__((vector_size(LANES * 4)));
    Upper upper;
    memcpy(&upper, at, sizeof upper);
    return (Lanes)(__builtin_convertvector(upper, Bits) << 16);
  }
#if defined(__AVX512F__)
  return (Lanes)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at));
#elif defined(__AVX__) && defined(__F16C__)
  return (Lanes)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at));
#elif defined(__aarch64__)
  return (Lanes)vcvt_f32_f16(vld1_f16((const float16_t *)at));
#else
  Lanes x;
  uint16_t bits[LANES];
  memcpy(bits, at, sizeof bits);
  for (int i = 0; i < LANES; i++) x[i] = half_value(bits[i]);
  return x;
#endif
}

// out (k) = k numbers of a type of 16 bits
INTERNAL void widen(float *out, int64_t type, const char *from, int64_t k);

// out (rows, k) = rows start … start + rows - 1 of a matrix (…, k)
INTERNAL void widened_rows(float *out, const void *weights, int64_t start, int64_t rows, int64_t k, int64_t type);

// out (n, k) = the rows `ids` (n) of a matrix (v, k)
INTERNAL void half_rows(float *out, const void *weights, const int32_t *ids, int64_t n, int64_t k, int64_t v, int64_t type);

// Layers of the types of halves.h as `linear` computes them: few rows, or those of a prompt, where the weights lie; more by
// tiles of widened ones
INTERNAL void layers_of_halves(float *y, const float *x, const void *const *w, const int64_t *types, const float *const *b,
                               int64_t n, int64_t i, const int64_t *o, int64_t biased);

// `linear_by_sequence` (sequences.c) with weights of the types t; for 0 sequences `linear` (linear.h) of t rows
void half_linear(float *y, const float *x, const void *w1, const void *w2, const void *w3, const float *b1, const float *b2,
                 const float *b3, int64_t sequences, int64_t t, int64_t i, int64_t o1, int64_t o2, int64_t o3, int64_t t1,
                 int64_t t2, int64_t t3, int64_t biased);
