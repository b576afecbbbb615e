// Hints of what is read next (ahead.h).
#include "ahead.h"

#include <stdatomic.h>

// MOST_AHEAD: bytes that all threads fetch together
enum { PRODUCTS = 4096, PROBED = 16, AT_ONCE = 256, MOST_AHEAD = 32 << 20 };

// By the address of a product's first weights: what was read after it. Of products whose PROBED slots are all taken the one
// is forgotten that was met the longest time ago.
typedef struct {
  const char *of;
  Weights next;
  int64_t met;
} Known;
static Known known[PRODUCTS], *last;
static int64_t begun; // products
static const Weights *_Atomic ahead;

// Where a product stands, or is to stand
static Known *place_of(const char *at) {
  int first = (int)(((uintptr_t)at >> 6) * 0x9e3779b97f4a7c15ull >> 52);
  Known *found = &known[first];
  for (int j = 0; j < PROBED; j++) {
    Known *one = &known[(first + j) % PRODUCTS];
    if (one->of == at) return one;
    if (one->met < found->met) found = one;
  }
  return found;
}

// What was read after a product, 0 if it never was
static const Weights *after(const char *at) {
  const Known *found = place_of(at);
  return found->of == at && found->next.at[0] ? &found->next : 0;
}

// For tests: the first weights of what was read after the product whose first weights are `at`
const char *follows(const char *at) {
  const Weights *next = after(at);
  return next ? next->at[0] : 0;
}

const Weights *product_begins(Weights now) {
  if (works_alone()) return 0;
  if (!now.at[0] || !now.bytes[0]) {
    last = 0;
    atomic_store_explicit(&ahead, 0, memory_order_relaxed);
    return 0;
  }
  if (last && memcmp(&last->next, &now, sizeof now)) {
    atomic_store_explicit(&ahead, 0, memory_order_relaxed);
    last->next = now;
  }
  last = place_of(now.at[0]);
  if (last->of != now.at[0]) *last = (Known){.of = now.at[0]};
  last->met = ++begun;
  const Weights *next = last->next.at[0] ? &last->next : 0;
  atomic_store_explicit(&ahead, next, memory_order_relaxed);
  return next;
}

static int64_t bytes_ahead(const Weights *w) {
  int64_t sum = 0;
  for (int j = 0; j < MOST_PIECES; j++) sum += w->bytes[j];
  return sum;
}

static int64_t part_start(int64_t bytes, int thread) { return bytes * thread / thread_count() / 64 * 64; }

static const char *at_byte(const Weights *w, int64_t byte) {
  int j = 0;
  while (j + 1 < MOST_PIECES && byte >= w->bytes[j]) byte -= w->bytes[j++];
  return w->at[j] + byte;
}

const char *part_begins(const Weights *next, int thread) {
  return next ? at_byte(next, part_start(bytes_ahead(next), thread)) : 0;
}

// A thread's own part comes first, then what is left, since it helps the others; then what follows that product. What a
// thread's own cache has no room for stays in the one that all share, and is there when Python has made a token of the
// logits: a wait that is long enough for MOST_AHEAD.
int fetch_ahead(Fetched *fetched, int thread) {
  const Weights *next = atomic_load_explicit(&ahead, memory_order_relaxed);
  if (fetched->of != next) *fetched = (Fetched){next, next, 0, 0, next ? bytes_ahead(next) : 0};
  if (!fetched->at || fetched->sum >= MOST_AHEAD / thread_count()) return 0;
  if (fetched->done >= fetched->bytes) {
    const Weights *then = after(fetched->at->at[0]);
    *fetched = (Fetched){next, then, 0, fetched->sum, then ? bytes_ahead(then) : 0};
    if (fetched->bytes <= 0) return 0;
  }
  int64_t own = part_start(fetched->bytes, thread);
  const char *from = at_byte(fetched->at, (own + fetched->done) % fetched->bytes);
  for (int64_t j = 0; j < AT_ONCE; j += 64) __builtin_prefetch(from + j, 0, 2);
  fetched->done += AT_ONCE;
  fetched->sum += AT_ONCE;
  return 1;
}
