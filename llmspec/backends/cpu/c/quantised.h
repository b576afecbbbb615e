// Matrices whose weights stay quantised: how they lie in memory, and integer dot products of 32 of them.
//
// A file's types (ggml's, by ggml's numbers) are kept without loss in one arrangement for every processor: groups of GROUP
// rows side by side, so that each lane of a vector sums up for a row of its own. A block of 32 columns is 8 lines of 64
// numbers, columns 4j … 4j + 3 of each row in line j. Where numbers have a byte, lines are 64 bytes each; where they have 4
// bits or more, the low halves of 4 times 64 bytes are lines 0 … 3, the high halves lines 4 … 7; a fifth bit stands in 64
// bytes more, line j's in bit j; a fifth and a sixth in 128 bytes more, of lines 0 … 3 and of 4 … 7, in bits 2j and 2j + 1
// of the half. The lines of all blocks come first, then the scales of all blocks: halves of 16 bits for each row, and their
// 8-bit factors where a type has them.
#pragma once
#include "half.h"
#include "pool.h"
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

enum { GROUP = 16, QUANT_BLOCK = 32, SUPER_BLOCK = 256, LINE = 64 };
enum { Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q4_K = 12, Q5_K = 13, Q6_K = 14 };

// How numbers lie: in 4, 5 or 6 bits; as bytes with a sign.
enum { NIBBLES, FIVES, SIXES, SIGNED };
// What they are multiplied with: a scale for 32, with or without a minimum that is added; the same as 8-bit factors of a
// scale and a minimum for 256; 8-bit factors with a sign, one for 16, of a scale for 256.
enum { SCALED, WITH_MINIMUM, FACTORS, SIGNED_FACTORS };

typedef struct {
  int quants, scales, offset; // a weight is scale · (number - offset) + minimum
} Form;

static inline __attribute__((always_inline)) Form form_of(int64_t type) {
  return type == Q4_0   ? (Form){NIBBLES, SCALED, 8}
         : type == Q4_1 ? (Form){NIBBLES, WITH_MINIMUM, 0}
         : type == Q5_0 ? (Form){FIVES, SCALED, 16}
         : type == Q5_1 ? (Form){FIVES, WITH_MINIMUM, 0}
         : type == Q8_0 ? (Form){SIGNED, SCALED, 0}
         : type == Q4_K ? (Form){NIBBLES, FACTORS, 0}
         : type == Q5_K ? (Form){FIVES, FACTORS, 0}
                        : (Form){SIXES, SIGNED_FACTORS, 32};
}

// Bytes of a block's lines
static inline __attribute__((always_inline)) int64_t line_bytes(Form form) {
  return form.quants == NIBBLES ? 4 * LINE : form.quants == FIVES ? 5 * LINE : form.quants == SIXES ? 6 * LINE : 8 * LINE;
}
static inline int64_t scale_bytes(Form form, int64_t k) {
  return form.scales == SCALED         ? k / QUANT_BLOCK * GROUP * 2
         : form.scales == WITH_MINIMUM ? k / QUANT_BLOCK * GROUP * 4
         : form.scales == FACTORS      ? k / SUPER_BLOCK * GROUP * (4 + 16)
                                       : k / SUPER_BLOCK * GROUP * (2 + 16);
}
static inline int64_t group_bytes(Form form, int64_t k) {
  return round_up(k / QUANT_BLOCK * line_bytes(form) + scale_bytes(form, k), LINE);
}

// out (rows, k) = the numbers that rows start … start + rows - 1 of a packed matrix stand for, as a file's reader has them
INTERNAL void dequantised_rows(float *out, const uint8_t *packed, int64_t start, int64_t rows, int64_t k, int64_t type);

#if defined(__AVX512BW__)
enum { VECTOR = 64 };
#elif defined(__AVX2__)
enum { VECTOR = 32 };
#else
enum { VECTOR = 16 };
#endif
enum { SUMS = VECTOR / 4, PARTS = LINE / VECTOR };
typedef uint8_t Bytes __attribute__((vector_size(VECTOR)));
typedef int32_t Ints __attribute__((vector_size(VECTOR)));
typedef float Floats __attribute__((vector_size(VECTOR)));
typedef int16_t Halves __attribute__((vector_size(VECTOR)));
typedef int8_t Small __attribute__((vector_size(VECTOR)));

static inline Bytes load_bytes(const void *from) {
  Bytes x;
  memcpy(&x, from, sizeof x);
  return x;
}
static inline Ints spread(int32_t x) { return x - (Ints){0}; }
static inline Floats spread_float(float x) { return x - (Floats){0}; }
static inline Ints spread_4(const int8_t *from) {
  int32_t x;
  memcpy(&x, from, 4);
  return spread(x);
}

// a · b + c: rounded once where the processor can, so that a compiler's choice does not make bits differ between tiles
static inline Floats fused(Floats a, Floats b, Floats c) {
#pragma clang fp contract(off) reassociate(off)
#if defined(__AVX512BW__)
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__) && defined(__FMA__)
  return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_FEATURE_DOTPROD)
  return (Floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

static inline Floats load_halves(const void *from) {
#if defined(__AVX512BW__)
  return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
#elif defined(__AVX2__) && defined(__F16C__)
  return (Floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
#else
  uint16_t half[SUMS];
  Floats x;
  memcpy(half, from, sizeof half);
  for (int i = 0; i < SUMS; i++) x[i] = half_value(half[i]);
  return x;
#endif
}

// The values of as many bytes as there are sums
static inline Floats load_factors(const void *from, int negative) {
  if (negative) {
    int8_t x __attribute__((vector_size(SUMS)));
    memcpy(&x, from, sizeof x);
    return __builtin_convertvector(x, Floats);
  }
  uint8_t x __attribute__((vector_size(SUMS)));
  memcpy(&x, from, sizeof x);
  return __builtin_convertvector(x, Floats);
}

// Products of unsigned by signed bytes, whose sums over 4 are added to 32 bits. Pairs of products are added in 16 bits on
// processors without such an instruction, which is exact: 2 · 128 · 127 < 2¹⁵.
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define DOT_UNSIGNED(sum, w, a) (Ints) _mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(w), (__m512i)(a))
#elif defined(__AVX512BW__)
#define PAIRS(w, a) _mm512_maddubs_epi16((__m512i)(w), (__m512i)(a))
#define FOURS(pairs) (Ints) _mm512_madd_epi16((pairs), _mm512_set1_epi16(1))
typedef __m512i Pairs;
#elif defined(__AVX2__) && defined(__AVXVNNI__)
#define DOT_UNSIGNED(sum, w, a) (Ints) _mm256_dpbusd_avx_epi32((__m256i)(sum), (__m256i)(w), (__m256i)(a))
#elif defined(__AVX2__)
#define PAIRS(w, a) _mm256_maddubs_epi16((__m256i)(w), (__m256i)(a))
#define FOURS(pairs) (Ints) _mm256_madd_epi16((pairs), _mm256_set1_epi16(1))
#define SIZES(w) (Bytes) _mm256_abs_epi8((__m256i)(w))
#define WITH_SIGNS(a, w) (Ints) _mm256_sign_epi8((__m256i)(a), (__m256i)(w))
typedef __m256i Pairs;
#elif defined(__SSSE3__)
#define PAIRS(w, a) _mm_maddubs_epi16((__m128i)(w), (__m128i)(a))
#define FOURS(pairs) (Ints) _mm_madd_epi16((pairs), _mm_set1_epi16(1))
#define SIZES(w) (Bytes) _mm_abs_epi8((__m128i)(w))
#define WITH_SIGNS(a, w) (Ints) _mm_sign_epi8((__m128i)(a), (__m128i)(w))
typedef __m128i Pairs;
#endif

#if defined(DOT_UNSIGNED) // a sign becomes an offset of 128, which the sum begins with
enum { SIGNED_OFFSET = 128 };
static inline Ints dot_unsigned(Ints sum, Bytes w, Ints a) { return DOT_UNSIGNED(sum, w, a); }
static inline Ints dot_signed(Ints sum, Bytes w, Ints a) { return dot_unsigned(sum, w ^ 0x80, a); }
#elif defined(PAIRS) // the weight's sign goes to the activation
enum { SIGNED_OFFSET = 0 };

static inline Ints dot_unsigned(Ints sum, Bytes w, Ints a) { return sum + FOURS(PAIRS(w, a)); }
static inline Ints dot_signed(Ints sum, Bytes w, Ints a) {
#if defined(SIZES) // a size of 128 has no sign here
  return dot_unsigned(sum, SIZES(w), WITH_SIGNS(a, w));
#else
  Bytes negative = (Bytes)((Small)w < 0);
  return dot_unsigned(sum, (w ^ negative) - negative, (Ints)(((Bytes)a ^ negative) - negative));
#endif
}
#elif defined(__ARM_FEATURE_DOTPROD)
enum { SIGNED_OFFSET = 0 };
static inline Ints dot_signed(Ints sum, Bytes w, Ints a) {
  return (Ints)vdotq_s32((int32x4_t)sum, (int8x16_t)w, (int8x16_t)a);
}
static inline Ints dot_unsigned(Ints sum, Bytes w, Ints a) { return dot_signed(sum, w, a); } // below 64
#else
enum { SIGNED_OFFSET = 0 };
static inline Ints dot_signed(Ints sum, Bytes w, Ints a) {
  int8_t of_w[VECTOR], of_a[VECTOR];
  memcpy(of_w, &w, sizeof w);
  memcpy(of_a, &a, sizeof a);
  for (int i = 0; i < SUMS; i++)
    for (int j = 0; j < 4; j++) sum[i] += of_w[4 * i + j] * of_a[4 * i + j];
  return sum;
}
static inline Ints dot_unsigned(Ints sum, Bytes w, Ints a) { return dot_signed(sum, w, a); }
#endif

// Sums over columns 4·first … of a block: `count` lines of weights by as many fours of activations
static inline __attribute__((always_inline)) Ints dot_lines(const int quants, Ints sum, const Bytes *w, const int8_t *a,
                                                            const int first, const int count) {
#if defined(PAIRS)
  // So many lines stay below 2¹⁵: 8 · 2 · 15 · 127, 4 · 2 · 31 · 127, 2 · 2 · 63 · 127
  const int together = quants == NIBBLES ? 8 : quants == FIVES ? 4 : 2;
  if (quants != SIGNED) {
#pragma clang loop unroll(full)
    for (int start = first; start < first + count; start += together) {
      Pairs pairs = PAIRS(w[start], spread_4(a + 4 * start));
#pragma clang loop unroll(full)
      for (int j = start + 1; j < first + count && j < start + together; j++)
        pairs = (Pairs)((Halves)pairs + (Halves)PAIRS(w[j], spread_4(a + 4 * j)));
      sum += FOURS(pairs);
    }
    return sum;
  }
#endif
#pragma clang loop unroll(full)
  for (int j = first; j < first + count; j++)
    sum = quants == SIGNED ? dot_signed(sum, w[j], spread_4(a + 4 * j)) : dot_unsigned(sum, w[j], spread_4(a + 4 * j));
  return sum;
}

// Up to three layers of one input, their results side by side: y (n, o1 + o2 + o3) = x (n, k) · wᵀ + bias, each w packed as
// `pack_quantised` does, of a type t. Activations are rounded to 8 bits and a scale for each 32; a row's results are
// sums in an order of its own, whatever rows stand beside it.
void quantised_linear(float *y, const float *x, const uint8_t *w1, const uint8_t *w2, const uint8_t *w3, const float *b1,
                      const float *b2, const float *b3, int64_t n, int64_t k, int64_t o1, int64_t o2, int64_t o3, int64_t t1,
                      int64_t t2, int64_t t3, int64_t biased);

// out (n, k) = the rows `ids` (n) of a packed matrix (v, k), or of one of 16 bits (halves.h)
void quantised_rows(float *out, const uint8_t *packed, const int32_t *ids, int64_t n, int64_t k, int64_t v, int64_t type);

// Bytes of a matrix (rows, k) that is packed, and packing: from rows of blocks as ggml has them
int64_t packed_bytes(int64_t rows, int64_t k, int64_t type);
void pack_quantised(uint8_t *out, const uint8_t *in, int64_t rows, int64_t k, int64_t type);
