// Scaled dot-product attention without keeping scores (Dao et al. 2022, arXiv:2205.14135): forward keeps one number a
// query, the logarithm of its sum; backward computes the weights again.
//
// q, out (b, t, h, d); k, v (b, s, g, d), h a multiple of g; spans (bs, t, 2), bs = b or 1: a query sees the keys
// first … end - 1, and a query without keys gets zeros; bias (bb, h, t, s) is added to the scores, bb = b, 1 or 0 (none).
// One iteration is one sequence and one key head; in the forward pass a share of its blocks of queries, where sequences
// are fewer than threads could do.
enum { BLOCK = 4 * MR };

JOB(Attention, float *out, *sums; const float *q, *k, *v; const int32_t *spans; const float *bias, *gradient;
    float *to_q, *to_k, *to_v; int64_t b, t, s, h, g, d, bs, bb, q_step, k_step; float scale; int64_t shares);

// Panels of NR rows of x (n rows, k columns), missing rows 0: the right side of a product with xᵀ
static void panels_of(float *out, Matrix x, int64_t n, int64_t k) {
  for (int64_t r = 0; r < n; r += NR) pack(out + r * k, from(x, r, 0), least(NR, n - r), k, NR, 1.0f);
}

// c (m, n) = or += factor · A (m, k) · the product's right side in panels of `depth` numbers a column, from row `start`
static void times(float *c, int64_t stride, Matrix a, const float *b, int64_t depth, int64_t start, int64_t m, int64_t n,
                  int64_t k, int accumulate, float factor, int thread) {
  float *left = scratch(thread, COPIED_ROWS, most(KC, k) * MR);
  if (!left) return;
  for (int64_t r = 0; r < m; r += MR) {
    Rows rows = rows_of(left, from(a, r, 0), least(MR, m - r), k, factor);
    for (int64_t j = 0; j < n; j += NR)
      tile(k, rows, b + j * depth + start * NR, c + r * stride + j, stride, least(MR, m - r), least(NR, n - j),
           accumulate, 0);
  }
}

typedef struct {
  int64_t rows, low, high; // queries of a block; the keys that any of them sees, `low` at a panel's start
} Extent;

// Where the bias of a query's keys lies, or 0
static inline const float *bias_of(const Attention *p, int64_t b, int64_t head, int64_t query) {
  return p->bb ? p->bias + (((p->bb == 1 ? 0 : b) * p->h + head) * p->t + query) * p->s : 0;
}

// Whether all keys that the queries see are among `s`
static int keys_inside(const int32_t *spans, int64_t queries, int64_t s) {
  for (int64_t i = 0; i < queries; i++)
    if (spans[2 * i] < spans[2 * i + 1] && !(inside(spans[2 * i], s) && inside(spans[2 * i + 1] - 1, s))) return 0;
  return 1;
}

static Extent extent(const Attention *p, const int32_t *spans, int64_t start) {
  Extent e = {least(BLOCK, p->t - start), p->s, 0};
  for (int64_t i = 0; i < e.rows; i++)
    if (spans[2 * i] < spans[2 * i + 1]) {
      e.low = least(e.low, spans[2 * i]);
      e.high = most(e.high, spans[2 * i + 1]);
    }
  e.low = e.high ? e.low / NR * NR : 0;
  return e;
}

// x (n) = e^(x - max x); returns its sum, and the maximum in `high`
static inline float exponentials(float *x, int64_t n, float *high) {
  float top = *high = highest(x, n), sum = 0.0f;
  for (int64_t j = 0; j < n; j++) {
    float e = exp_negative(x[j] - top);
    x[j] = e;
    sum += e;
  }
  return sum;
}

static void attend(const void *job, int64_t i, int thread) {
  const Attention *p = job;
  int64_t share = i % p->shares, b = i / p->shares / p->g, g = i / p->shares % p->g, group = p->h / p->g;
  int64_t d = p->d, s = p->s, wide = up(s, NR);
  int64_t at = b * s * p->k_step + g * d;
  Matrix k = {p->k + at, p->k_step, 1}, v = {p->v + at, p->k_step, 1};
  const int32_t *spans = p->spans + (p->bs == 1 ? 0 : b) * p->t * 2;
  float *k_t = scratch(thread, K_T, wide * d), *values = scratch(thread, V_PANELS, s * up(d, NR));
  float *scores = scratch(thread, SCORES, BLOCK * wide);
  if (!k_t || !values || !scores) return;
  panels_of(k_t, k, s, d);
  panels_of(values, transposed(v), d, s);
  int64_t blocks = parts(p->t, BLOCK), last = blocks * group * (share + 1) / p->shares;
  for (int64_t block = blocks * group * share / p->shares; block < last; block++) {
    int64_t head = g * group + block / blocks, start = block % blocks * BLOCK;
    Extent e = extent(p, spans + 2 * start, start);
    int64_t first = (b * p->t + start) * p->h + head, width = e.high - e.low;
    const float *q = p->q + (b * p->t + start) * p->q_step + head * d;
    times(scores, wide, (Matrix){q, p->q_step, 1}, k_t + e.low * d, d, 0, e.rows, width, d, 0, p->scale,
          thread);
    for (int64_t r = 0; r < e.rows; r++) {
      int64_t from = spans[2 * (start + r)] - e.low, n = spans[2 * (start + r) + 1] - e.low - from;
      float *row = scores + r * wide, high, sum = 0.0f;
      const float *bias = bias_of(p, b, head, start + r);
      if (n <= 0) from = n = 0;
      for (int64_t j = from; bias && j < from + n; j++) row[j] += bias[e.low + j];
      if (n) sum = exponentials(row + from, n, &high);
      p->sums[first + r * p->h] = n ? high + __builtin_logf(sum) : 0.0f;
      float scale = n ? 1.0f / sum : 0.0f;
      for (int64_t j = 0; j < n; j++) row[from + j] *= scale;
      for (int64_t j = 0; j < from; j++) row[j] = 0.0f;
      for (int64_t j = from + n; j < width; j++) row[j] = 0.0f;
    }
    times(p->out + first * d, p->h * d, (Matrix){scores, wide, 1}, values, s, e.low, e.rows, d, width, 0, 1.0f, thread);
  }
}

// One query a sequence (decoding): scores, softmax and sum straight from the keys and values
static void attend_one(const void *job, int64_t i, int thread) {
  const Attention *p = job;
  int64_t b = i / p->h, head = i % p->h, g = head / (p->h / p->g), d = p->d, step = p->k_step;
  const float *q = p->q + b * p->q_step + head * d, *k = p->k + b * p->s * step + g * d, *v = p->v + (k - p->k);
  const int32_t *span = p->spans + (p->bs == 1 ? 0 : b) * 2;
  const float *bias = bias_of(p, b, head, 0);
  int64_t first = span[0], n = most(0, span[1] - first);
  float *row = scratch(thread, SCORES, most(p->s, BLOCK)), *out = p->out + (b * p->h + head) * d, high = 0.0f, sum = 1.0f;
  if (!row) return;
  for (int64_t j = 0; j < n; j++) {
    float dot = 0.0f;
    for (int64_t u = 0; u < d; u++) dot += q[u] * k[(first + j) * step + u];
    row[j] = dot * p->scale + (bias ? bias[first + j] : 0.0f);
  }
  if (n) sum = exponentials(row, n, &high);
  p->sums[b * p->h + head] = n ? high + __builtin_logf(sum) : 0.0f;
  for (int64_t u = 0; u < d; u++) out[u] = 0.0f;
  for (int64_t j = 0; j < n; j++)
    for (int64_t u = 0; u < d; u++) out[u] += row[j] / sum * v[(first + j) * step + u];
}

// Divides the queries of a key head as far as four iterations a thread ask for; each of them packs keys and values anew.
static void attend_all(Attention job) {
  job.shares = least(job.h / job.g * parts(job.t, BLOCK), parts(4 * pool.threads, job.b * job.g));
  parallel(attend, &job, job.b * job.g * job.shares);
}

// sums (b, t, h) = log Σ e^score of each query, for the backward pass
void attention(float *out, float *sums, const float *q, const float *k, const float *v, const int32_t *spans,
               const float *bias, int64_t b, int64_t t, int64_t s, int64_t h, int64_t g, int64_t d, int64_t bs,
               int64_t bb) {
  float scale = 1.0f / __builtin_sqrtf((float)d);
  Attention job = {out, sums, q, k, v, spans, bias, 0, 0, 0, 0, b, t, s, h, g, d, bs, bb, h * d, g * d, scale, 1};
  if (!keys_inside(spans, bs * t, s)) return;
  if (t == 1)
    parallel(attend_one, &job, b * h);
  else
    attend_all(job);
}

static void attend_back(const void *job, int64_t i, int thread) {
  const Attention *p = job;
  int64_t b = i / p->g, g = i % p->g, group = p->h / p->g, d = p->d, s = p->s, wide = up(s, NR);
  int64_t at = b * s * p->k_step + g * d;
  Matrix k = {p->k + at, p->k_step, 1}, v = {p->v + at, p->k_step, 1};
  const int32_t *spans = p->spans + (p->bs == 1 ? 0 : b) * p->t * 2;
  float *k_t = scratch(thread, K_T, wide * d), *v_t = scratch(thread, V_T, wide * d);
  float *keys = scratch(thread, K_PANELS, s * up(d, NR));
  float *weights = scratch(thread, WEIGHTS, BLOCK * wide), *slopes = scratch(thread, SCORES, BLOCK * wide);
  float *queries = scratch(thread, Q_PANELS, BLOCK * up(d, NR)), *given = scratch(thread, D_PANELS, BLOCK * up(d, NR));
  float *to_k = p->to_k + at, *to_v = p->to_v + at;
  if (!k_t || !v_t || !keys || !weights || !slopes || !queries || !given) return;
  panels_of(k_t, k, s, d);
  panels_of(v_t, v, s, d);
  panels_of(keys, transposed(k), d, s);
  for (int64_t j = 0; j < s; j++) {
    memset(to_k + j * k.row, 0, d * sizeof(float));
    memset(to_v + j * v.row, 0, d * sizeof(float));
  }
  for (int64_t head = g * group; head < (g + 1) * group; head++)
    for (int64_t start = 0; start < p->t; start += BLOCK) {
      Extent e = extent(p, spans + 2 * start, start);
      int64_t first = (b * p->t + start) * p->h + head, width = e.high - e.low, step = p->h * d;
      int64_t query = (b * p->t + start) * p->q_step + head * d;
      Matrix q = {p->q + query, p->q_step, 1}, dout = {p->gradient + first * d, step, 1};
      times(weights, wide, q, k_t + e.low * d, d, 0, e.rows, width, d, 0, p->scale, thread);
      times(slopes, wide, dout, v_t + e.low * d, d, 0, e.rows, width, d, 0, 1.0f, thread);
      for (int64_t r = 0; r < e.rows; r++) {
        int64_t from = spans[2 * (start + r)] - e.low, n = spans[2 * (start + r) + 1] - e.low - from;
        float *w = weights + r * wide, *slope = slopes + r * wide, total = p->sums[first + r * p->h], dot = 0.0f;
        const float *o = p->out + first * d + r * step, *grad = dout.at + r * step;
        const float *bias = bias_of(p, b, head, start + r);
        if (n <= 0) from = n = 0;
        for (int64_t u = 0; u < d; u++) dot += o[u] * grad[u];
        for (int64_t j = 0; j < from; j++) w[j] = slope[j] = 0.0f;
        for (int64_t j = from + n; j < width; j++) w[j] = slope[j] = 0.0f;
        for (int64_t j = from; j < from + n; j++) {
          float below = w[j] + (bias ? bias[e.low + j] : 0.0f) - total;
          w[j] = exp_negative(below < 0.0f ? below : 0.0f);
          slope[j] = w[j] * (slope[j] - dot) * p->scale;
        }
      }
      panels_of(queries, transposed(q), d, e.rows);
      panels_of(given, transposed(dout), d, e.rows);
      times(p->to_q + query, p->q_step, (Matrix){slopes, wide, 1}, keys, s, e.low, e.rows, d, width, 0, 1.0f, thread);
      times(to_v + e.low * v.row, v.row, (Matrix){weights, 1, wide}, given, e.rows, 0, width, d, e.rows, 1, 1.0f, thread);
      times(to_k + e.low * k.row, k.row, (Matrix){slopes, 1, wide}, queries, e.rows, 0, width, d, e.rows, 1, 1.0f, thread);
    }
}

// The gradients of attention for q, k and v, from that of its result
void attention_backward(float *to_q, float *to_k, float *to_v, const float *gradient, const float *out, const float *sums,
                        const float *q, const float *k, const float *v, const int32_t *spans, const float *bias,
                        int64_t b, int64_t t, int64_t s, int64_t h, int64_t g, int64_t d, int64_t bs, int64_t bb) {
  float scale = 1.0f / __builtin_sqrtf((float)d);
  Attention job = {(float *)out, (float *)sums, q, k, v, spans, bias, gradient, to_q, to_k, to_v,
                   b, t, s, h, g, d, bs, bb, h * d, g * d, scale, 1};
  if (keys_inside(spans, bs * t, s)) parallel(attend_back, &job, b * g);
}

// Both again, with queries, keys and values side by side in qkv (b, t, h + 2g, d), and so their gradients
static Attention packed(const float *qkv, float *to_qkv, int64_t b, int64_t t, int64_t h, int64_t g, int64_t d) {
  int64_t k = h * d, v = (h + g) * d, step = (h + 2 * g) * d;
  return (Attention){.q = qkv, .k = qkv + k, .v = qkv + v, .to_q = to_qkv, .to_k = to_qkv + k, .to_v = to_qkv + v, .b = b,
                     .t = t, .s = t, .h = h, .g = g, .d = d, .q_step = step, .k_step = step,
                     .scale = 1.0f / __builtin_sqrtf((float)d)};
}

void attention_packed(float *out, float *sums, const float *qkv, const int32_t *spans, const float *bias, int64_t b,
                      int64_t t, int64_t h, int64_t g, int64_t d, int64_t bs, int64_t bb) {
  Attention job = packed(qkv, (float *)qkv, b, t, h, g, d);
  job.out = out, job.sums = sums, job.spans = spans, job.bias = bias, job.bs = bs, job.bb = bb;
  if (keys_inside(spans, bs * t, t)) attend_all(job);
}

void attention_packed_backward(float *to_qkv, const float *gradient, const float *out, const float *sums, const float *qkv,
                               const int32_t *spans, const float *bias, int64_t b, int64_t t, int64_t h, int64_t g,
                               int64_t d, int64_t bs, int64_t bb) {
  Attention job = packed(qkv, to_qkv, b, t, h, g, d);
  job.out = (float *)out, job.sums = (float *)sums, job.gradient = gradient;
  job.spans = spans, job.bias = bias, job.bs = bs, job.bb = bb;
  if (keys_inside(spans, bs * t, t)) parallel(attend_back, &job, b * g);
}
