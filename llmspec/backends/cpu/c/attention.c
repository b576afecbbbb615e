// Scaled dot-product attention without keeping scores (Dao et al. 2022, arXiv:2205.14135): the forward pass keeps one
// number a query, the logarithm of its sum; the backward pass computes the weights again.
//
// out = softmax(score(q, k))·v with score = softcap · tanh(scale · q·k / softcap) + bias + near, or scale · q·k + bias + near
// without a softcap (0), over the keys first … end - 1 of a query's range; a query without keys gets zeros. `near` is read
// by the distance from the query's position to the key's, so that no matrix of it exists. A sink is one more score of each
// query, with a value of zero. With dropout, out = Σ m·p·v over the keys, p the softmax's probabilities and m 0 or 1 / (1 -
// share), by counted random bits that both passes make anew (see dropped.h).
#include "ahead.h"
#include "dropped.h"
#include "gemm.h"
#include "kept.h"
#include "one_query.h"
#include "numeric.h"

// Queries of one step: of the forward pass as few as a tile has, so that few keys beside a query's own are multiplied; of
// the backward pass more, since gradients of keys and values are sums over them.
enum { STEP = MR, BLOCK = 4 * MR, FEW_KEY_HEADS = 4 };

// The numbers of a call, in the order in which callers pass them.
#define ATTENTION_NUMBERS(X)                                                                                           \
  X(int64_t, batch)                                                                                                    \
  X(int64_t, queries)                                                                                                  \
  X(int64_t, keys)                                                                                                     \
  X(int64_t, heads)                                                                                                    \
  X(int64_t, kv_heads)      /* heads is a multiple of it */                                                            \
  X(int64_t, head_dim)                                                                                                 \
  X(int64_t, ranges_batch)  /* batch, or 1 where all sequences share the ranges */                                     \
  X(int64_t, bias_batch)    /* batch, or 1 where all sequences share the bias, or 0 where there is none */             \
  X(int64_t, bias_gradient) /* whether the backward pass writes grad_bias */                                           \
  X(int64_t, reach)         /* distances lie within -reach and reach, without both; 0 where there is no `near` */       \
  X(int64_t, places_batch)  /* batch, or 1 where all sequences share the queries' positions */                          \
  X(int64_t, key_places_batch)                                                                                         \
  X(int64_t, sunk)          /* whether there are sinks */                                                              \
  X(int64_t, q_stride)      /* elements from a query to the next, from a key or a value to the next */                  \
  X(int64_t, kv_stride)                                                                                                \
  X(int64_t, dropped)       /* weights whose random bits are less are dropped; 0: none is */                           \
  X(float, scale)                                                                                                      \
  X(float, softcap)                                                                                                    \
  X(float, kept)            /* what the weights that stay are multiplied with */

typedef struct {
  float *out, *log_sums;  // (batch, queries, heads, head_dim); (batch, queries, heads): log Σ e^score
  const float *q, *k, *v; // (batch, queries, heads, head_dim), (batch, keys, kv_heads, head_dim) at their strides
  const int32_t *ranges;  // (ranges_batch, queries, 2)
  const float *bias;      // (bias_batch, heads, queries, keys)
  const float *near;      // (heads, 2 · reach - 1), by distance; distance 0 in the middle
  const int32_t *places, *key_places; // (places_batch, queries), (key_places_batch, keys): positions; those of the keys that
                                      // a query sees follow one another
  const float *sinks;                 // (heads)
  const int32_t *drop_key;            // (2), which the random bits hang on
  const float *grad_out;
  float *grad_q, *grad_k, *grad_v, *grad_bias; // as q, k, v, bias
#define FIELD(type, name) type name;
  ATTENTION_NUMBERS(FIELD)
#undef FIELD
  int64_t splits;   // iterations that share the queries of a key head
  int64_t sequence; // the first sequence of a job
  float *partial;   // of the backward pass with splits: (iterations, 2, keys, head_dim), gradients of keys and values
  float *few;       // of the backward pass with `near` or sinks: (batch, heads, few_numbers), gradients of both
  float *grad_near, *grad_sinks;
  Kept kept_k, kept_v; // keys and values of a cache that rounds them
} Attention;

#define PARAMETER(type, name) , type name
#define INITIALIZER(type, name) .name = name,

// Packs rows of x (n rows, k columns) into panels of NR, missing rows 0: the right side of a product with xᵀ.
static void pack_panels(float *out, Matrix x, int64_t n, int64_t k) {
  for (int64_t r = 0; r < n; r += NR) pack(out + r * k, submatrix(x, r, 0), min64(NR, n - r), k, NR, 1.0f);
}

// c (m, n) = or += factor · A (m, k) · B, where B is packed in panels `depth` rows deep, of which k from row `start` count
static void gemm_packed(float *c, int64_t stride, Matrix a, const float *b, int64_t depth, int64_t start, int64_t m,
                        int64_t n, int64_t k, int accumulate, float factor, int thread) {
  float *left = scratch(thread, COPIED_ROWS, max64(KC, k) * MR);
  if (!left) return;
  for (int64_t r = 0; r < m; r += MR) {
    Rows rows = rows_of(left, submatrix(a, r, 0), min64(MR, m - r), k, factor);
    for (int64_t j = 0; j < n; j += NR)
      gemm_tile(k, rows, b + j * depth + start * NR, c + r * stride + j, stride, min64(MR, m - r), min64(NR, n - j),
           accumulate, 0);
  }
}

// A block of queries: how many, and the keys low … high - 1 that any of them sees, `low` at a panel's start
typedef struct {
  int64_t rows, low, high;
} Extent;

// Where the bias (or its gradient) of a query's keys lies, or 0
static inline int64_t bias_at(const Attention *p, int64_t b, int64_t head, int64_t query) {
  return (((p->bias_batch == 1 ? 0 : b) * p->heads + head) * p->queries + query) * p->keys;
}

static inline const float *bias_of(const Attention *p, int64_t b, int64_t head, int64_t query) {
  return p->bias_batch ? p->bias + bias_at(p, b, head, query) : 0;
}

static inline int64_t near_numbers(const Attention *p) { return p->reach ? 2 * p->reach - 1 : 0; }

static inline int64_t few_numbers(const Attention *p) { return near_numbers(p) + (p->sunk != 0); }

// From where on `near` holds the numbers of `seen` keys from `key` on for a query
static inline int64_t near_at(const Attention *p, int64_t b, int64_t query, int64_t key) {
  int64_t place = p->places[(p->places_batch == 1 ? 0 : b) * p->queries + query];
  return p->reach - 1 + p->key_places[(p->key_places_batch == 1 ? 0 : b) * p->keys + key] - place;
}

// Where `near` holds those numbers; 0 where there is none or where it does not reach so far, which is an error
static inline const float *near_of(const Attention *p, int64_t b, int64_t head, int64_t query, int64_t key, int64_t seen) {
  if (!p->reach || !seen) return 0;
  int64_t at = near_at(p, b, query, key), all = near_numbers(p);
  return check_index(at, all) && check_index(at + seen - 1, all) ? p->near + head * all + at : 0;
}

static inline const int32_t *ranges_of(const Attention *p, int64_t b) {
  return p->ranges + (p->ranges_batch == 1 ? 0 : b) * p->queries * 2;
}

// Whether all keys that the queries see are among the keys that there are
static int ranges_inside(const Attention *p) {
  for (int64_t i = 0; i < p->ranges_batch * p->queries; i++) {
    int32_t first = p->ranges[2 * i], end = p->ranges[2 * i + 1];
    if (first < end && !(check_index(first, p->keys) && check_index(end - 1, p->keys))) return 0;
  }
  return 1;
}

// The extent of up to `most` queries from `start` on
static Extent extent(const Attention *p, const int32_t *ranges, int64_t start, int64_t most) {
  Extent e = {min64(most, p->queries - start), p->keys, 0};
  for (int64_t i = start; i < start + e.rows; i++)
    if (ranges[2 * i] < ranges[2 * i + 1]) {
      e.low = min64(e.low, ranges[2 * i]);
      e.high = max64(e.high, ranges[2 * i + 1]);
    }
  e.low = e.high ? e.low / NR * NR : 0;
  return e;
}

// The extent of a step within a block; of queries without keys none of the block's
static Extent step_within(const Attention *p, const int32_t *ranges, int64_t start, Extent block) {
  Extent e = extent(p, ranges, start, STEP);
  return e.high ? e : (Extent){e.rows, block.low, block.low};
}

static inline float softcapped(float x, float softcap) {
  float derivative;
  return softcap * tanh_of(x / softcap, &derivative);
}

static void softcap_all(float *x, int64_t n, float softcap) {
  for (int64_t j = 0; j < n; j++) x[j] = softcapped(x[j], softcap);
}

// x (n) = e^(x - max x); returns its sum, and the maximum in `high`, both with the sink where there is one
static inline float exponentials(float *x, int64_t n, const float *sink, float *high) {
  float top = row_max(x, n), sum = 0.0f;
  if (sink && *sink > top) top = *sink;
  *high = top;
  for (int64_t j = 0; j < n; j++) {
    float e = exp_negative(x[j] - top);
    x[j] = e;
    sum += e;
  }
  return sink ? sum + exp_negative(*sink - top) : sum;
}

// What the weights of a query's `seen` keys from `first` on are multiplied with, 0 or `kept`, in x (seen + 2 numbers)
static const float *factors_of(const Attention *p, float *x, int64_t b, int64_t head, int64_t query, int64_t first,
                               int64_t seen) {
  uint32_t row = (uint32_t)((b * p->heads + head) * p->queries + query);
  return drop_factors(x, (const uint32_t *)p->drop_key, row, first, seen, (uint32_t)p->dropped, p->kept);
}

// One iteration: a split of the blocks of queries of one sequence's key head
static void attention_blocks(const void *job, int64_t i, int thread) {
  const Attention *p = job;
  int64_t split = i % p->splits, b = i / p->splits / p->kv_heads, g = i / p->splits % p->kv_heads;
  int64_t group = p->heads / p->kv_heads, d = p->head_dim, blocks = ceil_div(p->queries, STEP);
  int64_t begin = blocks * group * split / p->splits, end = blocks * group * (split + 1) / p->splits;
  const int32_t *ranges = ranges_of(p, b);
  int64_t low = p->keys, high = 0; // of all blocks of this iteration: only these keys and values are packed
  for (int64_t block = begin; block < end; block++) {
    Extent e = extent(p, ranges, block % blocks * STEP, STEP);
    if (e.high) low = min64(low, e.low), high = max64(high, e.high);
  }
  int64_t n = max64(0, high - low), wide = round_up(n, NR), at = (b * p->keys + (n ? low : 0)) * p->kv_stride + g * d;
  float *k_panels = scratch(thread, K_T, wide * d), *v_panels = scratch(thread, V_PANELS, n * round_up(d, NR));
  float *scores = scratch(thread, SCORES, STEP * wide), *factors = scratch(thread, DROPPED, p->dropped ? wide + 2 : 1);
  if (!k_panels || !v_panels || !scores || !factors) return;
  pack_panels(k_panels, (Matrix){p->k + at, p->kv_stride, 1}, n, d);
  pack_panels(v_panels, (Matrix){p->v + at, 1, p->kv_stride}, d, n);
  for (int64_t block = begin; block < end; block++) {
    int64_t head = g * group + block / blocks, start = block % blocks * STEP;
    Extent e = extent(p, ranges, start, STEP);
    int64_t first = (b * p->queries + start) * p->heads + head, width = e.high - e.low, skipped = e.high ? e.low - low : 0;
    const float *q = p->q + (b * p->queries + start) * p->q_stride + head * d;
    gemm_packed(scores, wide, (Matrix){q, p->q_stride, 1}, k_panels + skipped * d, d, 0, e.rows, width, d, 0, p->scale,
                thread);
    for (int64_t r = 0; r < e.rows; r++) {
      int64_t from = ranges[2 * (start + r)] - e.low, seen = ranges[2 * (start + r) + 1] - e.low - from;
      float *row = scores + r * wide, top, sum = 0.0f;
      const float *bias = bias_of(p, b, head, start + r);
      if (seen <= 0) from = seen = 0;
      const float *near = near_of(p, b, head, start + r, e.low + from, seen);
      if (p->softcap > 0.0f) softcap_all(row + from, seen, p->softcap);
      for (int64_t j = from; bias && j < from + seen; j++) row[j] += bias[e.low + j];
      for (int64_t j = 0; near && j < seen; j++) row[from + j] += near[j];
      if (seen) sum = exponentials(row + from, seen, p->sunk ? p->sinks + head : 0, &top);
      p->log_sums[first + r * p->heads] = seen ? top + __builtin_logf(sum) : 0.0f;
      float factor = seen ? 1.0f / sum : 0.0f;
      for (int64_t j = 0; j < seen; j++) row[from + j] *= factor;
      if (p->dropped) {
        const float *m = factors_of(p, factors, b, head, start + r, e.low + from, seen);
        for (int64_t j = 0; j < seen; j++) row[from + j] *= m[j];
      }
      for (int64_t j = 0; j < from; j++) row[j] = 0.0f;
      for (int64_t j = from + seen; j < width; j++) row[j] = 0.0f;
    }
    gemm_packed(p->out + first * d, p->heads * d, (Matrix){scores, wide, 1}, v_panels, n, skipped, e.rows, d, width, 0,
                1.0f, thread);
  }
}

// One query a sequence (decoding): scores, softmax and sum straight from the keys and values, as a cache holds them
static void attention_decode(const void *job, int64_t i, int thread) {
  const Attention *p = job;
  int64_t b = i / p->heads, head = i % p->heads, g = head / (p->heads / p->kv_heads), d = p->head_dim, step = p->kv_stride;
  const int32_t *range = ranges_of(p, b);
  int64_t first = range[0], n = max64(0, range[1] - first), at = (b * p->keys + (n ? first : 0)) * step + g * d;
  const float *q = p->q + b * p->q_stride + head * d, *bias = bias_of(p, b, head, 0);
  float *row = scratch(thread, SCORES, max64(p->keys, STEP)), *out = p->out + i * d, high = 0.0f, sum = 1.0f;
  const float *near = near_of(p, b, head, 0, first, n);
  if (!row) return;
  if (p->kept_k.kind == KEPT_WHOLE)
    scores_of_keys(row, q, (const float *)p->kept_k.values + at, (const float *)p->kept_v.values + at, step, n, d,
                   head % (p->heads / p->kv_heads) == 0 || i == range_start(p->batch * p->heads, thread));
  else
    for (int64_t j = 0; j < n; j++) row[j] = kept_dot(p->kept_k, at + j * step, q, d);
  float scale = p->scale;
  for (int64_t j = 0; j < n; j++) row[j] *= scale;
  if (p->softcap > 0.0f) softcap_all(row, n, p->softcap);
  for (int64_t j = 0; bias && j < n; j++) row[j] += bias[first + j];
  for (int64_t j = 0; near && j < n; j++) row[j] += near[j];
  if (n) sum = exponentials(row, n, p->sunk ? p->sinks + head : 0, &high);
  if (p->log_sums) p->log_sums[i] = n ? high + __builtin_logf(sum) : 0.0f;
  for (int64_t j = 0; j < n; j++) row[j] /= sum;
  if (p->kept_v.kind == KEPT_WHOLE) {
    sum_of_values(out, row, (const float *)p->kept_v.values + at, step, n, d);
    return;
  }
  for (int64_t u = 0; u < d; u++) out[u] = 0.0f;
  for (int64_t j = 0; j < n; j++) kept_add(out, p->kept_v, at + j * step, row[j], d);
}

// One query a sequence, all heads. What a single one reads of a cache comes after the weights of its keys and values, token
// by token, as a product's weights do.
static void attention_of_one(const Attention *p) {
  int64_t of_one = p->kept_k.kind == KEPT_WHOLE ? 4 : p->kept_k.kind == KEPT_HALF ? 2 : 1;
  int64_t bytes = max64(0, p->ranges[1]) * p->kv_stride * of_one;
  if (p->batch == 1 && !p->ranges[0])
    product_begins((Weights){{p->kept_k.values, p->kept_v.values}, {bytes, bytes}});
  parallel_for(attention_decode, p, p->batch * p->heads);
}

void attention(float *out, float *log_sums, const float *q, const float *k, const float *v, const int32_t *ranges,
               const float *bias, const float *near, const int32_t *places, const int32_t *key_places,
               const float *sinks, const int32_t *drop_key ATTENTION_NUMBERS(PARAMETER)) {
  Attention job = {.out = out, .log_sums = log_sums, .q = q, .k = k, .v = v, .ranges = ranges, .bias = bias, .near = near,
                   .places = places, .key_places = key_places, .sinks = sinks, .drop_key = drop_key,
                   .kept_k = {k, 0, KEPT_WHOLE},
                   .kept_v = {v, 0, KEPT_WHOLE}, ATTENTION_NUMBERS(INITIALIZER)};
  if (!ranges_inside(&job)) return;
  if (queries == 1 && keys > 1 && !dropped) {
    attention_of_one(&job);
    return;
  }
  // Divides the queries of a key head as far as four iterations a thread ask for; each packs keys and values anew.
  job.splits = min64(heads / kv_heads * ceil_div(queries, STEP), ceil_div(4 * thread_count(), batch * kv_heads));
  parallel_for(attention_blocks, &job, batch * kv_heads * job.splits);
}

// `attention` of one query a sequence with the keys and values of a cache that rounds: `kind` says to what
void attention_kept(float *out, const float *q, const void *k, const void *v, const void *k_scales, const void *v_scales,
                    const int32_t *ranges, const float *bias, const float *near, const int32_t *places,
                    const int32_t *key_places, const float *sinks, const int32_t *drop_key ATTENTION_NUMBERS(PARAMETER),
                    int64_t kind) {
  Attention job = {.out = out, .q = q, .kept_k = {k, k_scales, kind}, .kept_v = {v, v_scales, kind}, .ranges = ranges,
                   .bias = bias, .near = near, .places = places, .key_places = key_places, .sinks = sinks,
                   .drop_key = drop_key, ATTENTION_NUMBERS(INITIALIZER)};
  if (ranges_inside(&job)) attention_of_one(&job);
}

// For the n keys of a query: `weights` and `slopes` hold scale · q·k and grad_out·v, and receive the softmax and the
// gradient for q·k; `derivatives` is room for those of the softcap. `dot` is grad_out·out. The gradient for the bias is
// written, or added where `add` says so; that for `near` is added.
static inline void attention_slopes(const Attention *p, float *restrict weights, float *restrict slopes,
                                    float *restrict derivatives, int64_t n, const float *restrict bias,
                                    const float *restrict near, float log_sum, float dot, float *restrict grad_bias,
                                    int add, float *restrict grad_near) {
  if (p->softcap <= 0.0f && !grad_bias && !near) {
    for (int64_t j = 0; j < n; j++) {
      float below = weights[j] + (bias ? bias[j] : 0.0f) - log_sum;
      weights[j] = exp_negative(below < 0.0f ? below : 0.0f);
      slopes[j] = weights[j] * (slopes[j] - dot) * p->scale;
    }
    return;
  }
  const float softcap = p->softcap, scale = p->scale;
  for (int64_t j = 0; softcap > 0.0f && j < n; j++) {
    float derivative, capped = softcap * tanh_of(weights[j] / softcap, &derivative);
    weights[j] = capped;
    derivatives[j] = derivative;
  }
  for (int64_t j = 0; near && j < n; j++) weights[j] += near[j];
  for (int64_t j = 0; j < n; j++) {
    float below = weights[j] + (bias ? bias[j] : 0.0f) - log_sum;
    weights[j] = exp_negative(below < 0.0f ? below : 0.0f);
    slopes[j] = weights[j] * (slopes[j] - dot);
  }
  for (int64_t j = 0; grad_bias && j < n; j++) grad_bias[j] = add ? grad_bias[j] + slopes[j] : slopes[j];
  for (int64_t j = 0; near && j < n; j++) grad_near[j] += slopes[j];
  for (int64_t j = 0; j < n; j++) slopes[j] *= softcap > 0.0f ? derivatives[j] * scale : scale;
}

// One iteration: a split of the query heads of one sequence's key head
static void attention_backward_heads(const void *job, int64_t i, int thread) {
  const Attention *p = job;
  int64_t split = i % p->splits, b = p->sequence + i / p->splits / p->kv_heads, g = i / p->splits % p->kv_heads;
  int64_t group = p->heads / p->kv_heads / p->splits, begin = (g * p->splits + split) * group;
  int64_t d = p->head_dim, s = p->keys, wide = round_up(s, NR), at = b * s * p->kv_stride + g * d;
  Matrix k = {p->k + at, p->kv_stride, 1}, v = {p->v + at, p->kv_stride, 1};
  const int32_t *ranges = ranges_of(p, b);
  float *k_t = scratch(thread, K_T, wide * d), *v_t = scratch(thread, V_T, wide * d);
  float *k_panels = scratch(thread, K_PANELS, s * round_up(d, NR));
  float *weights = scratch(thread, WEIGHTS, BLOCK * wide), *slopes = scratch(thread, SCORES, BLOCK * wide);
  float *derivatives = scratch(thread, DERIVATIVES, p->softcap > 0.0f ? wide : 1);
  float *factors = scratch(thread, DROPPED, p->dropped ? wide + 2 : 1);
  float *q_panels = scratch(thread, Q_PANELS, BLOCK * round_up(d, NR)), *out_panels = scratch(thread, D_PANELS, BLOCK * round_up(d, NR));
  int64_t grad_stride = p->splits > 1 ? d : p->kv_stride;
  float *grad_k = p->splits > 1 ? p->partial + 2 * i * s * d : p->grad_k + at;
  float *grad_v = p->splits > 1 ? grad_k + s * d : p->grad_v + at;
  if (!k_t || !v_t || !k_panels || !weights || !slopes || !derivatives || !factors || !q_panels || !out_panels) return;
  pack_panels(k_t, k, s, d);
  pack_panels(v_t, v, s, d);
  pack_panels(k_panels, transposed(k), d, s);
  for (int64_t j = 0; j < s; j++) {
    memset(grad_k + j * grad_stride, 0, d * sizeof(float));
    memset(grad_v + j * grad_stride, 0, d * sizeof(float));
  }
  for (int64_t head = begin; head < begin + group; head++) {
    float *few = p->few ? p->few + (b * p->heads + head) * few_numbers(p) : 0;
    if (few) memset(few, 0, few_numbers(p) * sizeof(float));
    for (int64_t start = 0; start < p->queries; start += BLOCK) {
      Extent e = extent(p, ranges, start, BLOCK);
      int64_t first = (b * p->queries + start) * p->heads + head, width = e.high - e.low, step = p->heads * d;
      int64_t query = (b * p->queries + start) * p->q_stride + head * d;
      Matrix q = {p->q + query, p->q_stride, 1}, grad_out = {p->grad_out + first * d, step, 1};
      for (int64_t r = 0; r < e.rows; r += STEP) {
        Extent own = step_within(p, ranges, start + r, e);
        int64_t at_step = r * wide + own.low - e.low, n = own.high - own.low;
        gemm_packed(weights + at_step, wide, submatrix(q, r, 0), k_t + own.low * d, d, 0, own.rows, n, d, 0, p->scale, thread);
        gemm_packed(slopes + at_step, wide, submatrix(grad_out, r, 0), v_t + own.low * d, d, 0, own.rows, n, d, 0, 1.0f, thread);
      }
      for (int64_t r = 0; r < e.rows; r++) {
        int64_t from = ranges[2 * (start + r)] - e.low, seen = ranges[2 * (start + r) + 1] - e.low - from;
        float *w = weights + r * wide, *slope = slopes + r * wide, dot = 0.0f;
        const float *out = p->out + first * d + r * step, *grad = grad_out.at + r * step;
        const float *bias = bias_of(p, b, head, start + r);
        float *grad_bias = p->bias_gradient ? p->grad_bias + bias_at(p, b, head, start + r) : 0;
        int add = p->bias_batch == 1 && b > 0;
        if (grad_bias && !add) memset(grad_bias, 0, s * sizeof(float));
        if (seen <= 0) from = seen = 0;
        for (int64_t u = 0; u < d; u++) dot += out[u] * grad[u];
        for (int64_t j = 0; j < from; j++) w[j] = slope[j] = 0.0f;
        for (int64_t j = from + seen; j < width; j++) w[j] = slope[j] = 0.0f;
        const float *near = near_of(p, b, head, start + r, e.low + from, seen);
        float log_sum = p->log_sums[first + r * p->heads];
        const float *m = p->dropped ? factors_of(p, factors, b, head, start + r, e.low + from, seen) : 0;
        for (int64_t j = 0; m && j < seen; j++) slope[from + j] *= m[j];
        attention_slopes(p, w + from, slope + from, derivatives, seen, bias ? bias + e.low + from : 0, near, log_sum, dot,
                         grad_bias ? grad_bias + e.low + from : 0, add,
                         near ? few + near_at(p, b, start + r, e.low + from) : 0);
        for (int64_t j = 0; m && j < seen; j++) w[from + j] *= m[j];
        if (p->sunk && seen) few[near_numbers(p)] -= exp_negative(p->sinks[head] - log_sum) * dot;
      }
      pack_panels(q_panels, transposed(q), d, e.rows);
      pack_panels(out_panels, transposed(grad_out), d, e.rows);
      Matrix weights_t = {weights, 1, wide}, slopes_t = {slopes, 1, wide};
      for (int64_t r = 0; r < e.rows; r += STEP) {
        Extent own = step_within(p, ranges, start + r, e);
        Matrix of_step = {slopes + r * wide + own.low - e.low, wide, 1};
        gemm_packed(p->grad_q + query + r * p->q_stride, p->q_stride, of_step, k_panels, s, own.low, own.rows, d,
                    own.high - own.low, 0, 1.0f, thread);
      }
      gemm_packed(grad_v + e.low * grad_stride, grad_stride, weights_t, out_panels, e.rows, 0, width, d, e.rows, 1, 1.0f, thread);
      gemm_packed(grad_k + e.low * grad_stride, grad_stride, slopes_t, q_panels, e.rows, 0, width, d, e.rows, 1, 1.0f, thread);
    }
  }
}

// One iteration: a head. The sequences' gradients for `near` and sinks are added up in their order.
static void attention_backward_few(const void *job, int64_t head, int thread) {
  const Attention *p = job;
  int64_t near = near_numbers(p), n = few_numbers(p);
  float *to = p->grad_near + head * near;
  (void)thread;
  if (near) memset(to, 0, near * sizeof(float));
  if (p->sunk) p->grad_sinks[head] = 0.0f;
  for (int64_t b = 0; b < p->batch; b++) {
    const float *few = p->few + (b * p->heads + head) * n;
    for (int64_t j = 0; j < near; j++) to[j] += few[j];
    if (p->sunk) p->grad_sinks[head] += few[near];
  }
}

// One iteration: one key of a job's key heads. The splits' gradients are added up in their order.
static void attention_backward_sum(const void *job, int64_t i, int thread) {
  const Attention *p = job;
  int64_t s = p->keys, d = p->head_dim, head = i / s, j = i % s, b = p->sequence + head / p->kv_heads;
  int64_t at = (b * s + j) * p->kv_stride + head % p->kv_heads * d;
  const float *partial = p->partial + (2 * head * p->splits * s + j) * d;
  (void)thread;
  for (int64_t u = 0; u < d; u++) p->grad_k[at + u] = p->grad_v[at + u] = 0.0f;
  for (int64_t split = 0; split < p->splits; split++, partial += 2 * s * d)
    for (int64_t u = 0; u < d; u++) {
      p->grad_k[at + u] += partial[u];
      p->grad_v[at + u] += partial[s * d + u];
    }
}

// The gradients of attention for q, k and v, for bias where asked, and for `near` and sinks where there are any, from that
// of its result
void attention_backward(float *grad_q, float *grad_k, float *grad_v, float *grad_bias, float *grad_near, float *grad_sinks,
                        const float *grad_out, const float *out, const float *log_sums, const float *q, const float *k,
                        const float *v, const int32_t *ranges, const float *bias, const float *near, const int32_t *places,
                        const int32_t *key_places, const float *sinks,
                        const int32_t *drop_key ATTENTION_NUMBERS(PARAMETER)) {
  Attention job = {.out = (float *)out, .log_sums = (float *)log_sums, .q = q, .k = k, .v = v, .ranges = ranges,
                   .bias = bias, .near = near, .places = places, .key_places = key_places, .sinks = sinks,
                   .drop_key = drop_key, .grad_out = grad_out, .grad_q = grad_q, .grad_k = grad_k, .grad_v = grad_v, .grad_bias = grad_bias,
                   .grad_near = grad_near, .grad_sinks = grad_sinks, ATTENTION_NUMBERS(INITIALIZER)};
  if (!ranges_inside(&job)) return;
  if (few_numbers(&job)) {
    job.few = scratch(SHARED, FEW, batch * heads * few_numbers(&job));
    if (!job.few) return;
  }
  // A bias that sequences share is summed over them: one after another, so that its bits do not follow the threads.
  int64_t together = bias_gradient && bias_batch == 1 ? 1 : batch;
  // A few key heads are too few for many threads: then each query head is an iteration. By the size alone, as above.
  job.splits = together * kv_heads < FEW_KEY_HEADS ? heads / kv_heads : 1;
  if (job.splits > 1) job.partial = scratch(SHARED, PARTIAL, together * heads * 2 * keys * head_dim);
  if (job.splits > 1 && !job.partial) return;
  for (; job.sequence < batch; job.sequence += together) {
    parallel_for(attention_backward_heads, &job, together * kv_heads * job.splits);
    if (job.splits > 1) parallel_for(attention_backward_sum, &job, together * kv_heads * keys);
  }
  if (job.few) parallel_for(attention_backward_few, &job, heads);
}
